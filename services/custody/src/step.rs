//! Whether a request may be ciphered now, and what it changes: the plaintext against the stage of the association, the
//! permit, and what was ciphered before. Nothing here touches a key, a counter or a database.

use crate::{
    apdu::{self, Asked, Block, Id, Parsed, Service},
    context::{Context, Stage, State},
    error::Error,
    permit::Allowed,
    transfer::{Progress, Transfer},
};

/// What a request does to its context once it is ciphered.
#[derive(Debug)]
pub(crate) enum Step {
    /// InitiateRequest of the AARQ.
    Initiate,
    /// InitiateRequest of the RLRQ.
    Release,
    /// reply_to_HLS with the token of this context, or the last block of it.
    ReplyToHls { invoke: u8 },
    /// Commands of the permit: one, or a list.
    Commands {
        id: Id,
        list: bool,
        indices: Vec<usize>,
    },
    /// A block of a value, with more to come.
    Block(Transfer),
    /// The last block of a value: commands of the permit.
    LastBlock {
        transfer: Transfer,
        indices: Vec<usize>,
    },
    /// The next block of what was let through is asked for.
    NextBlock { invoke: u8 },
    /// A notification that came is confirmed.
    Confirmation { invoke: u32 },
}

impl Step {
    /// Whether it is an InitiateRequest: always under the global key, with the service-specific tag, not signed.
    pub(crate) fn is_initiate(&self) -> bool {
        matches!(self, Self::Initiate | Self::Release)
    }

    /// The commands of the permit that are executed by it.
    pub(crate) fn indices(&self) -> &[usize] {
        match self {
            Self::Commands { indices, .. } | Self::LastBlock { indices, .. } => indices,
            _ => &[],
        }
    }
}

/// What a request would do in this context; an error if it may not be done.
pub(crate) fn step(context: &Context, state: &State, parsed: Parsed) -> Result<Step, Error> {
    match parsed {
        Parsed::Initiate => initiate(context, state),
        Parsed::Commands { id, list, asked } => commands(context, state, (id, list), &asked),
        Parsed::FirstBlock {
            invoke,
            list,
            heads,
            block,
        } => first_block(context, state, (invoke, list, &heads), &block),
        Parsed::Block {
            invoke,
            service,
            block,
        } => next_block(context, state, (invoke, service), &block),
        Parsed::NextBlock {
            invoke,
            service,
            block,
        } if goes_on(context, state, (invoke, service), block) => Ok(Step::NextBlock { invoke }),
        Parsed::NextBlock { .. } => not_permitted("it continues no request of this association"),
        Parsed::Confirmation { invoke }
            if state.stage == Stage::Open
                && (!context.terms.is_ciphered() || state.outstanding.is_unconfirmed(invoke)) =>
        {
            Ok(Step::Confirmation { invoke })
        }
        Parsed::Confirmation { .. } => {
            not_permitted("no notification of this association waits for it")
        }
    }
}

/// Whether the block after this one may be asked for. The answer to reply_to_HLS may come in blocks, too.
fn goes_on(context: &Context, state: &State, (invoke, service): (u8, Service), block: u32) -> bool {
    let outstanding = &state.outstanding;
    matches!(state.stage, Stage::Open | Stage::Replied { .. })
        && if context.terms.is_ciphered() {
            outstanding.continues(invoke, service, block)
        } else {
            // Answers in clear need not pass through custody, so it cannot know which block came.
            outstanding.returns(invoke, service)
        }
}

fn initiate(context: &Context, state: &State) -> Result<Step, Error> {
    match state.stage {
        Stage::New => Ok(Step::Initiate),
        _ if !context.terms.is_ciphered() => Ok(Step::Initiate),
        Stage::Released => Err(Error::OutOfOrder {
            why: "the association is released",
        }),
        _ => Ok(Step::Release),
    }
}

fn commands(
    context: &Context,
    state: &State,
    (id, list): (Id, bool),
    asked: &[Asked],
) -> Result<Step, Error> {
    if let (Stage::Challenged { token, .. }, Id::Short(invoke), [asked]) = (&state.stage, id, asked)
        && *asked == apdu::reply_to_hls(token)
        && !list
    {
        alone(context, state)?;
        return Ok(Step::ReplyToHls { invoke });
    }
    // The permit first: what it does not cover is refused as such at every stage.
    let indices = apdu::covered(asked, list, &context.allowed)?;
    if context.public && !asked.iter().all(apdu::reads_invocation_counter) {
        return not_permitted("the public client reads invocation counters only");
    }
    if state.stage == Stage::Open {
        alone(context, state)?;
        Ok(Step::Commands { id, list, indices })
    } else {
        Err(EARLY)
    }
}

/// Nothing else is ciphered while a value goes out in blocks, until the meter has answered the last of them. A later
/// block does not say what it is of, and the meter's leave to send it says no more than invoke id and number: were a
/// second transfer begun beside the first, the leave for the one could be shown for the other, and the meter, still in
/// the first, would take the end of the second for its own.
fn alone(context: &Context, state: &State) -> Result<(), Error> {
    // Answers in clear need not pass through custody: it cannot know when a transfer ends, nor protect it.
    if context.terms.is_ciphered() && state.is_transferring() {
        not_permitted("a value in blocks is not finished: it ends with the meter's answer")
    } else {
        Ok(())
    }
}

/// Besides, an answer to an older request must not be taken for the end of the transfer, which the meter is still in.
fn alone_with_id(context: &Context, state: &State, invoke: u8) -> Result<(), Error> {
    alone(context, state)?;
    if context.terms.is_ciphered() && !state.outstanding.is_free(invoke) {
        not_permitted("a request with this invoke id has no answer yet")
    } else {
        Ok(())
    }
}

fn first_block(
    context: &Context,
    state: &State,
    (invoke, list, heads): (u8, bool, &[Asked]),
    block: &Block,
) -> Result<Step, Error> {
    if let Stage::Challenged { token, .. } = &state.stage {
        let reply = [Allowed {
            asked: apdu::reply_to_hls(token),
            max_uses: 0,
            named: None,
        }];
        if let ([head], false) = (heads, list)
            && head.same_target(&reply[0].asked)
        {
            let transfer = Transfer::new(invoke, list, heads, &reply)?;
            alone_with_id(context, state, invoke)?;
            return blocks(&transfer, block, true);
        }
    }
    let transfer = Transfer::new(invoke, list, heads, &context.allowed)?;
    if context.public {
        return not_permitted("the public client reads invocation counters only");
    }
    if state.stage == Stage::Open {
        alone_with_id(context, state, invoke)?;
        blocks(&transfer, block, false)
    } else {
        Err(EARLY)
    }
}

fn next_block(
    context: &Context,
    state: &State,
    (invoke, service): (u8, Service),
    block: &Block,
) -> Result<Step, Error> {
    let transfer = state
        .transfer
        .as_ref()
        .filter(|transfer| (transfer.invoke(), transfer.service()) == (invoke, service))
        .filter(|transfer| {
            // Answers in clear need not pass through custody.
            !context.terms.is_ciphered()
                || state
                    .outstanding
                    .acknowledged(invoke, service, transfer.number())
        });
    match (transfer, &state.stage) {
        (Some(transfer), Stage::Open) => blocks(transfer, block, false),
        (Some(transfer), Stage::Challenged { .. }) => blocks(transfer, block, true),
        _ => not_permitted("it continues no request of this association"),
    }
}

fn blocks(transfer: &Transfer, block: &Block, reply: bool) -> Result<Step, Error> {
    Ok(match transfer.with(block)? {
        Progress::Begun(transfer) => Step::Block(transfer),
        Progress::Whole(_) if reply => Step::ReplyToHls {
            invoke: transfer.invoke(),
        },
        Progress::Whole(indices) => Step::LastBlock {
            transfer: transfer.clone(),
            indices,
        },
    })
}

/// What changes once it is ciphered.
pub(crate) fn apply(context: &Context, state: &mut State, step: Step) {
    let outstanding = &mut state.outstanding;
    match step {
        Step::Initiate => {
            if state.stage == Stage::New {
                state.stage = Stage::Initiated;
            }
            outstanding.initiate();
        }
        Step::Release => {
            // Nothing has come of this association: the one that the meter still holds is released.
            let before = state.stage == Stage::Initiated && !state.again;
            state.again |= before;
            state.stage = if before { Stage::New } else { Stage::Released };
            outstanding.initiate();
        }
        Step::ReplyToHls { invoke } => {
            state.transfer = None;
            outstanding.command(Id::Short(invoke), Service::Action, None);
            if let Stage::Challenged { challenge, .. } = &mut state.stage {
                let challenge = std::mem::take(challenge);
                state.stage = Stage::Replied { invoke, challenge };
            }
        }
        Step::Commands { id, list, indices } => {
            let first = indices
                .first()
                .and_then(|index| context.allowed.get(*index));
            let service = first.map_or(Service::Get, |allowed| allowed.asked.service);
            state.counter_asked = match (id, first) {
                (Id::Short(invoke), Some(only))
                    if !list && apdu::reads_invocation_counter(&only.asked) =>
                {
                    Some(invoke)
                }
                // Another request with its id: the answer to come is of that.
                (Id::Short(invoke), _) if state.counter_asked == Some(invoke) => None,
                _ => state.counter_asked,
            };
            outstanding.command(id, service, list.then_some(indices.len()));
        }
        Step::Block(transfer) => {
            outstanding.block(transfer.invoke(), transfer.service(), transfer.number());
            state.transfer = Some(transfer);
        }
        Step::LastBlock { transfer, .. } => {
            let id = Id::Short(transfer.invoke());
            outstanding.command(id, transfer.service(), transfer.count());
            // It is over when the meter has answered.
            state.transfer = context.terms.is_ciphered().then_some(transfer);
        }
        Step::NextBlock { invoke } => outstanding.next_block(invoke),
        Step::Confirmation { invoke } => outstanding.confirm(invoke),
    }
}

fn not_permitted<T>(why: &'static str) -> Result<T, Error> {
    Err(Error::ApduNotPermitted { why })
}

const EARLY: Error = Error::OutOfOrder {
    why: "commands come after the association is open, and before its release",
};
