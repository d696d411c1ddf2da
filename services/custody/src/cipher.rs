//! Ciphering requests under a permit, deciphering their answers, and HLS5.
//!
//! Which counters of the meter are believed:
//!
//! - Within a context they rise, each above the last.
//! - With low-level security nothing proves that the meter is alive, so every counter must also be above the last one
//!   ever taken from it; that one is stored before the answer is given out.
//! - With HLS5, until the meter has proven itself, only the answers to InitiateRequest and reply_to_HLS are deciphered,
//!   with any counter: neither is believed alone. f(CtoS) is a tag over a challenge made for this context, so it cannot
//!   be a recording, and the APDU that carried it has the meter's true counter. If that is above the stored one, as
//!   always, every recording of earlier associations is now too old. If it is below, the meter lost its counter
//!   (some do in a cold start): the association goes on, because refusing would lock the meter out for ever, and the
//!   trail gets an entry, because such a meter repeats nonces of its own and its older answers can be played back.

use dlms::security::{Ciphered, GmacToken, Protection, SecurityControl};
use kit::{PeerName, clock, crash_point};
use latchkey_proto::audit::v1::EntryKind;
use subtle::ConstantTimeEq as _;

use crate::{
    apdu::{self, Answer, Asked, Parsed, Service},
    context::{Context, Mode, Stage, State},
    crash,
    custody::Custody,
    error::Error,
    keyring::{MeterKeys, Sender},
    store::Use,
    trail,
};

/// What a request does to its context once it is ciphered.
#[derive(Debug)]
enum Step {
    /// InitiateRequest of the AARQ.
    Initiate,
    /// InitiateRequest of the RLRQ.
    Release,
    /// reply_to_HLS with the token of this context.
    ReplyToHls { invoke: u8 },
    /// A command of the permit.
    Command {
        invoke: u8,
        asked: Asked,
        index: usize,
    },
    /// The next block of a GET that was let through.
    NextBlock { invoke: u8 },
}

impl Custody {
    /// Ciphers a request, if the permit covers it. Returns the APDU and the counter it spent.
    pub(crate) async fn protect(
        &self,
        peer: &PeerName,
        id: &str,
        request: &[u8],
    ) -> Result<(Vec<u8>, u32), Error> {
        let context = self.contexts.get(id, peer, clock::now())?;
        let mut state = context.state.lock().await;
        let step = self.admit(&context, &state, request)?;
        let counter = match context.keys {
            Some(_) => self.next_counter(&context, &mut state).await?,
            None => 0,
        };
        if let Step::Command { asked, index, .. } = &step {
            // After this a crash is clean: the use is counted, whether or not the request leaves (P5).
            self.count_use(&context, asked, *index, counter).await?;
        }
        let apdu = match &context.keys {
            Some(keys) => {
                self.cipher(keys, context.protection, counter, request)
                    .await?
            }
            None => request.to_vec(),
        };
        apply(&mut state, step);
        crash_point(crash::AFTER_PROTECT);
        Ok((apdu, counter))
    }

    /// Deciphers a response to a request of this context.
    pub(crate) async fn unprotect(
        &self,
        peer: &PeerName,
        id: &str,
        response: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let context = self.contexts.get(id, peer, clock::now())?;
        let mut state = context.state.lock().await;
        let Some(keys) = &context.keys else {
            state.outstanding.answered(response)?;
            return Ok(response.to_vec());
        };
        let ciphered = agreed(&context, &state, keys, response)?;
        check_counter(&context, &state, ciphered.counter)?;
        let apdu = self
            .keyring
            .open(keys, ciphered.counter, &ciphered.body)
            .await?;
        let apdu = apdu.ok_or(Error::CiphertextInvalid {
            why: "its tag is wrong",
        })?;
        let tag = apdu.first().and_then(|tag| context.protection.tag(*tag));
        if tag != Some(ciphered.tag) {
            return Err(Error::ResponseRefused {
                why: "its ciphered tag is not that of its plaintext",
            });
        }
        // It is authentic: whatever it says, it is not taken twice.
        state.received = Some(ciphered.counter);
        let answer = state.outstanding.answered(&apdu)?;
        if context.mode == Mode::Low {
            let meter_id = &context.permit.meter_id;
            if !self
                .store
                .raise_received(meter_id, ciphered.counter)
                .await?
            {
                return Err(old_counter());
            }
            if answer == Answer::Initiated && state.stage == Stage::Initiated {
                state.stage = Stage::Open;
            }
        }
        Ok(apdu)
    }

    /// Computes f(StoC) of HLS pass 3, once.
    pub(crate) async fn answer_challenge(
        &self,
        peer: &PeerName,
        id: &str,
        challenge: &[u8],
        server_title: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let context = self.contexts.get(id, peer, clock::now())?;
        let mut state = context.state.lock().await;
        let keys = match &context.keys {
            Some(keys) if context.mode == Mode::Hls && state.stage == Stage::Initiated => keys,
            _ => {
                return Err(Error::OutOfOrder {
                    why: "a challenge is answered once, after the AARQ of HLS5",
                });
            }
        };
        let refusal = if server_title != keys.server_title.bytes() {
            let why = "the system title is not the enrolled one";
            Some(Error::ChallengeRefused { why })
        } else if challenge == context.challenge {
            let why = "it is our own, sent back";
            Some(Error::ChallengeRefused { why })
        } else {
            apdu::challenge_is_request(challenge).then_some(Error::ChallengeAmbiguous)
        };
        if let Some(error) = refusal {
            self.refused(&context.permit, None, &error);
            return Err(error);
        }
        // A counter of its own: token and APDU are two GCM calls, and no two share a nonce (P4).
        let counter = self.next_counter(&context, &mut state).await?;
        let tag = self
            .keyring
            .gmac(keys, Sender::Client, counter, challenge)
            .await?;
        let token = GmacToken {
            control: SecurityControl::AUTH,
            counter,
            tag,
        }
        .encode();
        state.stage = Stage::Challenged {
            token: token.clone(),
        };
        Ok(token)
    }

    /// Verifies f(CtoS) of HLS pass 4, once: a wrong answer ends the context.
    pub(crate) async fn verify_answer(
        &self,
        peer: &PeerName,
        id: &str,
        token: &[u8],
    ) -> Result<(), Error> {
        let context = self.contexts.get(id, peer, clock::now())?;
        let mut state = context.state.lock().await;
        let (keys, received) = match (&context.keys, state.received) {
            (Some(keys), Some(received)) if state.answered_hls() => (keys, received),
            _ => {
                return Err(Error::OutOfOrder {
                    why: "f(CtoS) comes in the answer to reply_to_HLS",
                });
            }
        };
        if !self.proves(keys, &context.challenge, token).await? {
            self.contexts.remove(id, peer);
            self.refused(&context.permit, None, &Error::AnswerWrong);
            return Err(Error::AnswerWrong);
        }
        let entry = context.received_before.filter(|before| received <= *before).map(|before| {
            let detail = format!("the meter's invocation counter went back from {before} to {received}; HLS5 proves it alive");
            tracing::warn!(meter_id = context.permit.meter_id, before, received, "the meter lost its invocation counter");
            trail::under_permit(EntryKind::KeyUse, &context.permit, None, detail)
        });
        self.store
            .set_received(&context.permit.meter_id, received, entry.as_ref())
            .await?;
        self.reporter.stored();
        state.proven = true;
        state.stage = Stage::Open;
        Ok(())
    }

    async fn proves(
        &self,
        keys: &MeterKeys,
        challenge: &[u8],
        token: &[u8],
    ) -> Result<bool, Error> {
        let Ok(theirs) = GmacToken::decode(token) else {
            return Ok(false);
        };
        // With the meter's title in the nonce our own token, sent back, does not verify.
        let ours = self
            .keyring
            .gmac(keys, Sender::Server, theirs.counter, challenge)
            .await?;
        Ok(ours.ct_eq(&theirs.tag).into())
    }

    /// Decides whether a request may be ciphered now. A refusal is left in the trail.
    fn admit(&self, context: &Context, state: &State, request: &[u8]) -> Result<Step, Error> {
        let parsed =
            apdu::parse(request).inspect_err(|error| self.refused(&context.permit, None, error))?;
        let asked = match &parsed {
            Parsed::Command { asked, .. } => Some(asked.clone()),
            Parsed::Initiate | Parsed::NextBlock { .. } => None,
        };
        step(context, state, parsed).inspect_err(|error| match error {
            Error::OutOfOrder { .. } => {}
            _ => self.refused(&context.permit, asked.as_ref(), error),
        })
    }

    /// The next counter of the context's block, or of a new block.
    async fn next_counter(&self, context: &Context, state: &mut State) -> Result<u32, Error> {
        loop {
            if let Some(counter) = state.counters.next() {
                return Ok(counter);
            }
            state.counters = self
                .store
                .reserve_counters(&context.permit.meter_id, self.counter_block)
                .await?;
        }
    }

    async fn count_use(
        &self,
        context: &Context,
        asked: &Asked,
        index: usize,
        counter: u32,
    ) -> Result<(), Error> {
        let max = context
            .allowed
            .get(index)
            .map_or(0, |allowed| allowed.max_uses);
        if max == 0 && asked.service == Service::Get {
            return Ok(());
        }
        let used = Use {
            command_index: u32::try_from(index).unwrap_or(u32::MAX),
            invocation_counter: counter,
            use_us: clock::micros(clock::now()),
        };
        let mut entry = trail::under_permit(
            EntryKind::KeyUse,
            &context.permit,
            Some(asked),
            "a limited command is ciphered".to_owned(),
        );
        entry.invocation_counter = counter;
        self.store
            .count_use(&context.permit.permit_id, &used, max, &entry)
            .await
            .inspect_err(|error| {
                if matches!(error, Error::CommandSpent { .. }) {
                    self.refused(&context.permit, Some(asked), error);
                }
            })?;
        self.reporter.stored();
        Ok(())
    }

    async fn cipher(
        &self,
        keys: &MeterKeys,
        protection: Protection,
        counter: u32,
        request: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let tag = request.first().and_then(|tag| protection.tag(*tag));
        let tag = tag.ok_or(Error::ApduNotPermitted {
            why: "it cannot be ciphered",
        })?;
        let body = self.keyring.seal(keys, counter, request).await?;
        let title = (tag == dlms::security::GENERAL_GLO).then_some(keys.client_title);
        Ok(Ciphered {
            tag,
            title,
            control: SecurityControl::AUTH_ENC,
            counter,
            body,
        }
        .encode())
    }
}

/// What a request would do in this context; an error if it may not be done.
fn step(context: &Context, state: &State, parsed: Parsed) -> Result<Step, Error> {
    let early = Error::OutOfOrder {
        why: "commands come after the association is open, and before its release",
    };
    match (parsed, &state.stage) {
        (Parsed::Initiate, Stage::New) => Ok(Step::Initiate),
        (Parsed::Initiate, _) if context.keys.is_none() => Ok(Step::Initiate),
        (Parsed::Initiate, Stage::Released) => Err(Error::OutOfOrder {
            why: "the association is released",
        }),
        (Parsed::Initiate, _) => Ok(Step::Release),
        (Parsed::Command { invoke, asked }, Stage::Challenged { token })
            if apdu::replies_to_hls(&asked, token) =>
        {
            Ok(Step::ReplyToHls { invoke })
        }
        (Parsed::Command { invoke, asked }, stage) => {
            // The permit first: what it does not cover is refused as such at every stage.
            let index = apdu::covered(&asked, &context.allowed)?;
            if context.mode == Mode::Public && !apdu::reads_invocation_counter(&asked) {
                return Err(Error::ApduNotPermitted {
                    why: "the public client reads invocation counters only",
                });
            }
            if *stage == Stage::Open {
                Ok(Step::Command {
                    invoke,
                    asked,
                    index,
                })
            } else {
                Err(early)
            }
        }
        // Answers in clear need not pass through custody, so it cannot know which block came.
        (Parsed::NextBlock { invoke, .. }, Stage::Open)
            if context.keys.is_none() && state.outstanding.reads(invoke) =>
        {
            Ok(Step::NextBlock { invoke })
        }
        (Parsed::NextBlock { invoke, block }, Stage::Open)
            if state.outstanding.continues(invoke, block) =>
        {
            Ok(Step::NextBlock { invoke })
        }
        (Parsed::NextBlock { .. }, _) => Err(Error::ApduNotPermitted {
            why: "it continues no GET of this association",
        }),
    }
}

fn apply(state: &mut State, step: Step) {
    match step {
        Step::Initiate => {
            if state.stage == Stage::New {
                state.stage = Stage::Initiated;
            }
            state.outstanding.initiate();
        }
        Step::Release => {
            state.stage = Stage::Released;
            state.outstanding.initiate();
        }
        Step::ReplyToHls { invoke } => {
            state.stage = Stage::Replied { invoke };
            state.outstanding.command(invoke, Service::Action);
        }
        Step::Command { invoke, asked, .. } => state.outstanding.command(invoke, asked.service),
        Step::NextBlock { invoke } => state.outstanding.next_block(invoke),
    }
}

/// Takes a ciphered response apart, if it is as agreed: form, title, and security control of suite 0 with both
/// authentication and encryption. Anything less is a downgrade.
fn agreed(
    context: &Context,
    state: &State,
    keys: &MeterKeys,
    response: &[u8],
) -> Result<Ciphered, Error> {
    let refused = |why| Err(Error::ResponseRefused { why });
    let Ok(ciphered) = Ciphered::decode(response) else {
        return refused("it is not ciphered, or malformed");
    };
    let general = ciphered.tag == dlms::security::GENERAL_GLO;
    let expected = match dlms::security::plain_tag(ciphered.tag) {
        Some(plain) => {
            context.protection.tag(plain) == Some(ciphered.tag) && state.outstanding.expects(plain)
        }
        None => general && context.protection == Protection::GeneralGlo,
    };
    if !expected {
        return refused("no request of this association waits for such an APDU");
    }
    if ciphered
        .title
        .is_some_and(|title| title != keys.server_title)
    {
        return refused("its system title is not the enrolled one");
    }
    if ciphered.control != SecurityControl::AUTH_ENC {
        return refused("its security control is not authenticated encryption of suite 0");
    }
    Ok(ciphered)
}

fn check_counter(context: &Context, state: &State, counter: u32) -> Result<(), Error> {
    let above = |last: Option<u32>| last.is_none_or(|last| counter > last);
    if !above(state.received) || (context.mode == Mode::Low && !above(context.received_before)) {
        return Err(old_counter());
    }
    Ok(())
}

fn old_counter() -> Error {
    Error::CiphertextInvalid {
        why: "its invocation counter is old",
    }
}
