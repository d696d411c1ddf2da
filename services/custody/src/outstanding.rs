//! Requests of a context that have no answer yet.

use std::collections::BTreeMap;

use dlms::{
    Notification, Response,
    initiate::{ConfirmedServiceError, InitiateResponse},
};

use crate::{
    apdu::{Id, Service},
    error::Error,
};

/// Tag of an InitiateResponse.
const INITIATE_RESPONSE: u8 = 0x08;
/// Tag of a ConfirmedServiceError.
const SERVICE_ERROR: u8 = 0x0E;
/// ACCESS requests, and confirmed notifications, remembered at one time.
const REMEMBERED: usize = 16;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// The answer to a GET, of several attributes if `list` says of how many.
    Get {
        list: Option<usize>,
        /// After this block the next may be asked for.
        received: Option<u32>,
    },
    /// The outcome of a SET.
    Set { list: Option<usize> },
    /// The outcome of an ACTION.
    Action {
        list: Option<usize>,
        received: Option<u32>,
    },
    /// Leave to send the block after this one, of a SET or ACTION.
    Acknowledgement {
        service: Service,
        number: u32,
        acknowledged: bool,
    },
}

/// Requests of one context that have no answer yet, by invoke id. A late answer to an older request still deciphers;
/// an answer to no request does not.
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    initiate: bool,
    requests: [Option<Waiting>; 16],
    /// Bit n: of two requests with invoke id n, one may still be answered after the other was.
    doubled: u16,
    /// By the id of the ACCESS: how many accesses it has.
    accesses: BTreeMap<u32, usize>,
    /// Notifications that came and wait for their confirmation.
    unconfirmed: Vec<u32>,
}

/// What a response is, to the context it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The initiate was accepted.
    Initiated,
    /// A notification, which nobody waited for.
    Notification,
    /// Anything else that was waited for.
    Other,
}

impl Outstanding {
    /// An InitiateRequest was ciphered.
    pub(crate) fn initiate(&mut self) {
        self.initiate = true;
    }

    /// A command was ciphered, or a list of as many as said.
    pub(crate) fn command(&mut self, id: Id, service: Service, list: Option<usize>) {
        match id {
            Id::Short(invoke) => {
                // Only its own last block follows a block.
                if !matches!(
                    self.at(invoke),
                    None | Some(Waiting::Acknowledgement { .. })
                ) {
                    self.doubled |= of_id(invoke);
                }
                self.put(
                    invoke,
                    Some(match service {
                        Service::Get => Waiting::Get {
                            list,
                            received: None,
                        },
                        Service::Set => Waiting::Set { list },
                        Service::Action => Waiting::Action {
                            list,
                            received: None,
                        },
                    }),
                );
            }
            Id::Long(id) => {
                if self.accesses.len() >= REMEMBERED {
                    self.accesses.pop_first();
                }
                self.accesses.insert(id, list.unwrap_or(1));
            }
        }
    }

    /// A block that is not the last was ciphered.
    pub(crate) fn block(&mut self, invoke: u8, service: Service, number: u32) {
        let acknowledged = false;
        self.put(
            invoke,
            Some(Waiting::Acknowledgement {
                service,
                number,
                acknowledged,
            }),
        );
    }

    /// Whether the meter has said that the block after this one may come.
    pub(crate) fn acknowledged(&self, invoke: u8, service: Service, number: u32) -> bool {
        let acknowledged = true;
        self.at(invoke)
            == Some(Waiting::Acknowledgement {
                service,
                number,
                acknowledged,
            })
    }

    /// Whether block `block` came for this request and the one after it has not been asked for.
    pub(crate) fn continues(&self, invoke: u8, service: Service, block: u32) -> bool {
        match (self.at(invoke), service) {
            (Some(Waiting::Get { received, .. }), Service::Get)
            | (Some(Waiting::Action { received, .. }), Service::Action) => received == Some(block),
            _ => false,
        }
    }

    /// Whether this request has no answer yet.
    pub(crate) fn waits(&self, invoke: u8) -> bool {
        self.at(invoke).is_some()
    }

    /// Whether no answer to an earlier request with this invoke id can come.
    pub(crate) fn is_free(&self, invoke: u8) -> bool {
        !self.waits(invoke) && self.doubled & of_id(invoke) == 0
    }

    /// Whether this request is a GET, or an ACTION, that has not been answered to the end.
    pub(crate) fn returns(&self, invoke: u8, service: Service) -> bool {
        matches!(
            (self.at(invoke), service),
            (Some(Waiting::Get { .. }), Service::Get)
                | (Some(Waiting::Action { .. }), Service::Action)
        )
    }

    /// The block after one that came was asked for.
    pub(crate) fn next_block(&mut self, invoke: u8) {
        let next = match self.at(invoke) {
            Some(Waiting::Get { list, .. }) => Some(Waiting::Get {
                list,
                received: None,
            }),
            Some(Waiting::Action { list, .. }) => Some(Waiting::Action {
                list,
                received: None,
            }),
            other => other,
        };
        self.put(invoke, next);
    }

    /// Whether a notification with this id came and was not confirmed.
    pub(crate) fn is_unconfirmed(&self, invoke: u32) -> bool {
        self.unconfirmed.contains(&invoke)
    }

    /// It was confirmed.
    pub(crate) fn confirm(&mut self, invoke: u32) {
        self.unconfirmed.retain(|waiting| *waiting != invoke);
    }

    /// Whether an APDU with this plaintext tag could answer anything. Notifications answer nothing: see
    /// [`Notification::is_tag`].
    pub(crate) fn expects(&self, plain_tag: u8) -> bool {
        let of = |wanted: Service| {
            self.requests.iter().flatten().any(|waiting| match waiting {
                Waiting::Get { .. } => wanted == Service::Get,
                Waiting::Set { .. } => wanted == Service::Set,
                Waiting::Action { .. } => wanted == Service::Action,
                Waiting::Acknowledgement { service, .. } => wanted == *service,
            })
        };
        match plain_tag {
            INITIATE_RESPONSE | SERVICE_ERROR => self.initiate,
            0xC4 => of(Service::Get),
            0xC5 => of(Service::Set),
            0xC7 => of(Service::Action),
            0xDA => !self.accesses.is_empty(),
            _ => false,
        }
    }

    /// Takes an authentic plaintext response or notification.
    pub(crate) fn answered(&mut self, apdu: &[u8]) -> Result<Answer, Error> {
        match apdu.first() {
            Some(&(INITIATE_RESPONSE | SERVICE_ERROR)) => return self.initiated(apdu),
            Some(tag) if Notification::is_tag(*tag) => return self.notified(apdu),
            _ => {}
        }
        let response = Response::decode(apdu).map_err(|_| refused("custody cannot read it"))?;
        if let Response::Access {
            invoke, results, ..
        } = &response
        {
            return match self.accesses.remove(&invoke.id()) {
                // Shorter where the meter stopped at the first that failed.
                Some(count) if results.len() <= count => Ok(Answer::Other),
                _ => Err(unasked()),
            };
        }
        let invoke = response.invoke().ok_or_else(unasked)?.id();
        let waiting = self.at(invoke).ok_or_else(unasked)?;
        let next = after(waiting, &response)?;
        self.put(invoke, next);
        Ok(Answer::Other)
    }

    fn initiated(&mut self, apdu: &[u8]) -> Result<Answer, Error> {
        let accepted = InitiateResponse::decode(apdu).is_ok();
        if !self.initiate || !(accepted || ConfirmedServiceError::decode(apdu).is_ok()) {
            return Err(refused("it answers no InitiateRequest"));
        }
        self.initiate = false;
        Ok(if accepted {
            Answer::Initiated
        } else {
            Answer::Other
        })
    }

    fn notified(&mut self, apdu: &[u8]) -> Result<Answer, Error> {
        let notification =
            Notification::decode(apdu).map_err(|_| refused("custody cannot read it"))?;
        if let Some(confirmation) = notification.confirmation() {
            if self.unconfirmed.len() >= REMEMBERED {
                self.unconfirmed.remove(0);
            }
            self.unconfirmed.push(confirmation.invoke.bits());
        }
        Ok(Answer::Notification)
    }

    fn at(&self, invoke: u8) -> Option<Waiting> {
        self.requests.get(usize::from(invoke)).copied().flatten()
    }

    fn put(&mut self, invoke: u8, waiting: Option<Waiting>) {
        if let Some(slot) = self.requests.get_mut(usize::from(invoke)) {
            *slot = waiting;
        }
    }
}

/// The bit of an invoke id.
fn of_id(invoke: u8) -> u16 {
    1_u16.checked_shl(invoke.into()).unwrap_or(0)
}

/// What a request waits for after this response; an error if it does not answer it.
fn after(waiting: Waiting, response: &Response) -> Result<Option<Waiting>, Error> {
    let several = |list: Option<usize>, count: usize| list == Some(count);
    match (waiting, response) {
        (Waiting::Get { list, .. }, response) => match response {
            Response::GetBlock {
                last: false,
                block,
                payload: Ok(_),
                ..
            } => Ok(Some(Waiting::Get {
                list,
                received: Some(*block),
            })),
            Response::GetBlock { .. } | Response::GetError { .. } => Ok(None),
            Response::GetData { .. } if list.is_none() => Ok(None),
            Response::GetList { results, .. } if several(list, results.len()) => Ok(None),
            _ => Err(unasked()),
        },
        (Waiting::Set { list }, response) => match response {
            Response::Set { .. } | Response::SetLastBlock { .. } if list.is_none() => Ok(None),
            Response::SetList { results, .. } | Response::SetLastBlockList { results, .. }
                if several(list, results.len()) =>
            {
                Ok(None)
            }
            _ => Err(unasked()),
        },
        (Waiting::Action { list, .. }, response) => match response {
            Response::ActionBlock {
                last: false, block, ..
            } => Ok(Some(Waiting::Action {
                list,
                received: Some(*block),
            })),
            Response::ActionBlock { .. } => Ok(None),
            Response::Action { .. } if list.is_none() => Ok(None),
            Response::ActionList { outcomes, .. } if several(list, outcomes.len()) => Ok(None),
            _ => Err(unasked()),
        },
        (
            Waiting::Acknowledgement {
                service, number, ..
            },
            response,
        ) => after_block(service, number, response),
    }
}

/// After a block: leave to send the next, or an outcome, which ends the transfer before its end.
fn after_block(
    service: Service,
    number: u32,
    response: &Response,
) -> Result<Option<Waiting>, Error> {
    let go_on = Some(Waiting::Acknowledgement {
        service,
        number,
        acknowledged: true,
    });
    match (service, response) {
        (Service::Set, Response::SetBlockAck { block, .. })
        | (Service::Action, Response::ActionNextBlock { block, .. })
            if *block == number =>
        {
            Ok(go_on)
        }
        (
            Service::Set,
            Response::Set { .. }
            | Response::SetLastBlock { .. }
            | Response::SetList { .. }
            | Response::SetLastBlockList { .. },
        )
        | (Service::Action, Response::Action { .. } | Response::ActionList { .. }) => Ok(None),
        _ => Err(unasked()),
    }
}

fn refused(why: &'static str) -> Error {
    Error::ResponseRefused { why }
}

fn unasked() -> Error {
    refused("no request with its invoke id waits for it")
}

#[cfg(test)]
mod tests;
