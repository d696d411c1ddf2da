//! Deciphering answers, and both ends of HLS.
//!
//! Every answer must have the form, suite, security control and signature that were agreed: anything less is a
//! downgrade. The service-specific and the general form of one key are the same protection, and peers are known that
//! answer in the one they like. An answer must answer a request of this context that has no answer yet, or be a notification.
//!
//! Which counters of the meter are believed:
//!
//! - Under the global key, within a context, they rise, each above the last.
//! - With low-level security nothing proves that the meter is alive, so every counter under the global key must also be
//!   above the last one ever taken from it; that one is stored before the answer is given out.
//! - With HLS, until the meter has proven itself, only the answers to InitiateRequest and reply_to_HLS are deciphered,
//!   with any counter: neither is believed alone. f(CtoS) is over a challenge made for this context, so it cannot be a
//!   recording, whatever the mechanism: tag, hash or signature. With HLS 3, 4, 6 and 7 it is not bound to any counter;
//!   but the APDU that carried it is: its tag is over the very octets of f(CtoS), so whoever made it has the key, and
//!   made it after the challenge. So that APDU has the meter's true counter. If that is above the stored one, as always,
//!   every recording of earlier associations is now too old. If it is below, the meter lost its counter (some do in a
//!   cold start): the association goes on, because refusing would lock the meter out for ever, and the trail gets an
//!   entry, because such a meter repeats nonces of its own and its older answers can be played back.
//! - Under a dedicated key counters begin anew, and need not be kept: the key was drawn for this context, so nothing
//!   under it is a recording. It is in an APDU that only the holder of the global key can read; so an answer under it
//!   proves the meter alive, even with low-level security. About the counters of the global key it says nothing. HLS5
//!   does: its token has one of them under its own tag, and that is the one believed.
//! - Under a key of its own (wrapped or agreed, general-ciphering) an answer may have any counter, because a meter may
//!   begin anew with each key. It must be of a transaction that this context began and that has no answer yet; the
//!   transaction is under the tag. A notification is of no transaction of ours, so none is taken so.
//! - Without authentication nothing received is authentic: no counter is stored, because whoever could make up answers
//!   could make up a counter and lock the meter out. But a counter must be above the last one ever taken from the meter,
//!   and rise: the same key and nonce decipher what was sent with a tag, so custody would read recordings of other
//!   associations to whoever asks. For that the last counter is stored with every answer that has a tag, where the
//!   meter's keys came in for encryption alone.

use dlms::{
    Mechanism, Notification, Protection,
    security::{Ciphered, Envelope, GeneralCiphering, GeneralSigning, aad, plain_tag},
};
use kit::{PeerName, clock};
use latchkey_proto::audit::v1::EntryKind;

use crate::{
    context::{Context, Stage, State},
    custody::Custody,
    error::Error,
    hls::{Challenge, Proof},
    keyring::{MeterKeys, STALE_MAX, Sender, Under, curve, split_tag},
    outstanding::Answer,
    own,
    store::CounterOf,
    terms::Space,
    trail,
};

impl Custody {
    /// Deciphers a response to a request of this context.
    pub(crate) async fn unprotect(
        &self,
        peer: &PeerName,
        id: &str,
        response: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let context = self.contexts.get(id, peer, clock::now())?;
        let mut state = context.state.lock().await;
        let Some(keys) = context.ciphering() else {
            state.outstanding.answered(response)?;
            return Ok(response.to_vec());
        };
        let (envelope, form) = agreed(&context, &state, keys, response)?;
        let space = match form {
            // An Initiate APDU, or one of a context under the global key.
            Protection::Glo => Space::Global,
            _ => context.terms.space(),
        };
        let counter = envelope.counter.unwrap_or_default();
        check_counter(&state, space, counter)?;
        let content = match envelope.signed {
            true => signed(keys, response)?,
            false => response.to_vec(),
        };
        let (apdu, transaction) = match form {
            Protection::GeneralCiphering(_) => {
                Box::pin(self.open_general(&context, &state, keys, &content)).await?
            }
            _ => (
                self.open_agreed(&context, &state, (keys, space), &content)
                    .await?,
                None,
            ),
        };
        let inside = apdu.first().and_then(|tag| envelope.protection.tag(*tag));
        if inside != Some(envelope.tag) {
            return refused("its ciphered tag is not that of its plaintext");
        }
        // Whatever it says, it is not taken twice.
        record(&mut state, space, counter, transaction.as_deref());
        Box::pin(self.accepted(&context, &mut state, (space, counter), &apdu)).await?;
        Ok(apdu)
    }

    /// Takes an authentic plaintext.
    async fn accepted(
        &self,
        context: &Context,
        state: &mut State,
        (space, counter): (Space, u32),
        apdu: &[u8],
    ) -> Result<(), Error> {
        let notification = apdu.first().is_some_and(|tag| Notification::is_tag(*tag));
        if notification && state.stage != Stage::Open {
            return refused("a notification comes after the association is open");
        }
        let answer = state.outstanding.answered(apdu)?;
        if state.rekeying {
            Box::pin(self.rekeyed(context, state, apdu)).await?;
        }
        if context.terms.is_authentic() && state.stage == Stage::Open {
            self.learn_counter(context, state, apdu).await?;
        }
        if context.terms.mechanism == Mechanism::Low {
            let counted = space == Space::Global && context.terms.is_authentic();
            let initiated = answer == Answer::Initiated && state.stage == Stage::Initiated;
            // Under a new key nothing was ever recorded: whatever is authentic, the meter made with it.
            let new = matches!(context.counter_of, CounterOf::Other { .. });
            if new && initiated {
                Box::pin(self.proven(context, Some(counter))).await?;
            } else if counted
                && !new
                && !self
                    .store
                    .raise_received(&context.permit.meter_id, context.fence, counter)
                    .await?
            {
                return Err(OLD_COUNTER);
            }
            if initiated {
                if !new {
                    Box::pin(self.proven(context, Some(counter))).await?;
                }
                state.stage = Stage::Open;
            }
        } else if context.encryption_alone
            && context.terms.counts_globally()
            && state.stage == Stage::Open
        {
            // HLS has proven the meter alive, so it is its true counter.
            let raised =
                self.store
                    .raise_received(&context.permit.meter_id, context.fence, counter);
            Box::pin(raised).await?;
        }
        Ok(())
    }

    /// Opens what is under the global or the dedicated key.
    async fn open_agreed(
        &self,
        context: &Context,
        state: &State,
        (keys, space): (&MeterKeys, Space),
        content: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let Ok(ciphered) = Ciphered::decode(content) else {
            return refused("it is malformed");
        };
        let under = match (space, &state.dedicated) {
            (Space::Dedicated, Some(dedicated)) => Under::Held(&dedicated.key),
            (Space::Dedicated, None) => return refused("there is no dedicated key"),
            _ => Under::Global,
        };
        let control = context.terms.control;
        let (clear, _) = split_tag(&ciphered.body);
        let gcm = keys
            .gcm(control, Sender::Server, ciphered.counter)
            .with_aad(aad(control, keys.ak(), clear));
        let apdu = self
            .keyring
            .unprotect(keys, under, &gcm, &ciphered.body)
            .await?;
        apdu.ok_or(WRONG_TAG)
    }

    /// Opens general-ciphering. Returns the transaction as well, where the key is one of its own. A key that was lost
    /// with its token is found again.
    async fn open_general(
        &self,
        context: &Context,
        state: &State,
        keys: &MeterKeys,
        content: &[u8],
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), Error> {
        let mut tries = 0..STALE_MAX;
        loop {
            match self.open_general_once(context, state, keys, content).await {
                Err(error) if error.is_stale() && tries.next().is_some() => {}
                done => return done,
            }
        }
    }

    async fn open_general_once(
        &self,
        context: &Context,
        state: &State,
        keys: &MeterKeys,
        content: &[u8],
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), Error> {
        let Ok(general) = GeneralCiphering::decode(content) else {
            return refused("it is malformed");
        };
        let transaction = general.header.transaction_id.clone();
        let own = context.terms.space() == Space::Own;
        if own && !state.transactions.contains(&transaction) {
            return refused("it is of no transaction that this association waits for");
        }
        let of = (general.key_info.as_ref(), &general.header);
        let key = own::find(&self.keyring, keys, &context.terms, of).await?;
        let control = context.terms.control;
        let (clear, _) = split_tag(&general.body);
        let gcm = keys
            .gcm(control, Sender::Server, general.counter)
            .with_aad(general.aad(keys.ak(), clear));
        let under = key.as_ref().map_or(Under::Global, Under::Held);
        let apdu = self
            .keyring
            .unprotect(keys, under, &gcm, &general.body)
            .await?;
        Ok((apdu.ok_or(WRONG_TAG)?, own.then_some(transaction)))
    }

    /// Computes f(StoC) of HLS pass 3, once.
    pub(crate) async fn answer_challenge(
        &self,
        peer: &PeerName,
        id: &str,
        challenge: &[u8],
        (server_title, certificate): (&[u8], &[u8]),
    ) -> Result<Vec<u8>, Error> {
        let context = self.contexts.get(id, peer, clock::now())?;
        let mut state = context.state.lock().await;
        let terms = &context.terms;
        let initiated = match state.stage {
            Stage::Initiated => true,
            Stage::New => !terms.is_ciphered(),
            _ => false,
        };
        let keys = match &context.keys {
            Some(keys) if terms.mechanism.is_high_level() && initiated => keys,
            _ => {
                return Err(Error::OutOfOrder {
                    why: "a challenge is answered once, after the AARQ of HLS",
                });
            }
        };
        if let Some(error) = objection(&context, keys, challenge, server_title) {
            self.refused(&context.permit, &[], &error);
            return Err(error);
        }
        if terms.mechanism == Mechanism::HlsEcdsa && !certificate.is_empty() {
            // Boxed: it is rare, and large.
            Box::pin(self.shown_certificate_holds(keys, certificate))
                .await
                .inspect_err(|error| self.refused(&context.permit, &[], error))?;
        }
        // An older context must not answer the challenge of a newer one, wherever that is.
        self.store
            .check_fence(&context.permit.meter_id, context.fence)
            .await?;
        let counter = match terms.mechanism {
            // One of its own: token and APDU are two GCM calls, and no two share a nonce (P4).
            Mechanism::HlsGmac => self.next_counter(&context, &mut state).await?,
            _ => 0,
        };
        let asked = Challenge {
            mechanism: terms.mechanism,
            suite: terms.suite(),
            received: challenge,
            sent: &context.challenge,
        };
        let token = self
            .keyring
            .answer(keys, asked, counter)
            .await
            .inspect_err(|error| {
                if matches!(error, Error::ChallengeAmbiguous) {
                    self.refused(&context.permit, &[], error);
                }
            })?;
        state.stage = Stage::Challenged {
            token: token.clone(),
            challenge: challenge.to_vec(),
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
        let terms = &context.terms;
        // Without ciphering answers need not pass through custody.
        let answered = state.answered_hls() || !terms.is_ciphered();
        let (keys, challenge) = match (&context.keys, &state.stage) {
            (Some(keys), Stage::Replied { challenge, .. }) if answered => (keys, challenge),
            _ => {
                return Err(Error::OutOfOrder {
                    why: "f(CtoS) comes in the answer to reply_to_HLS",
                });
            }
        };
        let asked = Challenge {
            mechanism: terms.mechanism,
            suite: terms.suite(),
            received: &context.challenge,
            sent: challenge,
        };
        let Some(proof) = self.keyring.proves(keys, asked, token).await? else {
            self.contexts.remove(id, peer);
            self.refused(&context.permit, &[], &Error::AnswerWrong);
            return Err(Error::AnswerWrong);
        };
        let received = believed(&context, &state, proof);
        let stored = match context.rotating {
            Some(_) => Box::pin(self.proven(&context, received)).await?,
            None => false,
        };
        // A newer context, wherever it is, may have answered our challenge (HLS 3 and 4): then this one has ended.
        match received {
            _ if stored => {}
            Some(received) => Box::pin(self.believe(&context, received)).await?,
            None => {
                let meter_id = &context.permit.meter_id;
                self.store.check_fence(meter_id, context.fence).await?;
            }
        }
        state.stage = Stage::Open;
        Ok(())
    }

    /// Stores the counter with which the meter has proven itself, whatever was stored.
    async fn believe(&self, context: &Context, received: u32) -> Result<(), Error> {
        let entry = context
            .received_before
            .filter(|before| received <= *before)
            .map(|before| {
                let detail = format!(
                    "the meter's invocation counter went back from {before} to {received}; HLS proves it alive"
                );
                let meter_id = &context.permit.meter_id;
                tracing::warn!(meter_id, before, received, "the meter lost its invocation counter");
                trail::under_permit(EntryKind::KeyUse, &context.permit, &[], detail)
            });
        self.store
            .set_received(
                &context.permit.meter_id,
                context.fence,
                received,
                entry.as_ref(),
            )
            .await?;
        self.reporter.stored();
        Ok(())
    }
}

/// The counter of the meter's under the global key that a right answer to the challenge proves.
fn believed(context: &Context, state: &State, proof: Proof) -> Option<u32> {
    if context.terms.counts_globally() {
        state.received.highest()
    } else {
        proof.counter
    }
}

/// Why a challenge is not answered.
fn objection(
    context: &Context,
    keys: &MeterKeys,
    challenge: &[u8],
    server_title: &[u8],
) -> Option<Error> {
    let terms = &context.terms;
    let refused = |why| Some(Error::ChallengeRefused { why });
    let untitled = server_title.is_empty()
        && !terms.is_ciphered()
        && matches!(terms.mechanism, Mechanism::HlsMd5 | Mechanism::HlsSha1);
    if server_title != keys.server_title.bytes() && !untitled {
        refused("the system title is not the enrolled one")
    } else if challenge == context.challenge {
        refused("it is our own, sent back")
    } else if challenge.len() < terms.mechanism.challenge_min() {
        refused("it is too short for the mechanism")
    } else if terms.mechanism == Mechanism::HlsGmac && crate::challenge::is_request(challenge) {
        Some(Error::ChallengeAmbiguous)
    } else {
        None
    }
}

/// Looks at a response, and compares it with what was agreed. Returns the form it has: Initiate APDUs are always under
/// the global key, with the service-specific tag, and not signed.
fn agreed(
    context: &Context,
    state: &State,
    keys: &MeterKeys,
    response: &[u8],
) -> Result<(Envelope, Protection), Error> {
    let terms = &context.terms;
    let Ok(envelope) = Envelope::of(response) else {
        return refused("it is malformed");
    };
    let plain = plain_tag(envelope.tag);
    let initiates = matches!(plain, Some(0x01 | 0x08 | 0x0E));
    let (form, signed) = match initiates {
        true => (Protection::Glo, false),
        false => (terms.protection, terms.signed),
    };
    let titled = |title: Option<_>, enrolled| title.is_none_or(|title| title == enrolled);
    if envelope.control.is_none() {
        refused("it is not ciphered")
    } else if !envelope.protection.is_as_good_as(form) {
        refused("it is not in the form that was agreed")
    } else if envelope.signed != signed {
        refused("it is not signed as was agreed")
    } else if envelope.control != Some(terms.control) {
        refused("its security control is not the one that was agreed")
    } else if !titled(envelope.originator, keys.server_title) {
        refused("its system title is not the enrolled one")
    } else if !titled(envelope.recipient, keys.client_title) {
        refused("it is for another recipient")
    } else if plain
        .is_some_and(|plain| !Notification::is_tag(plain) && !state.outstanding.expects(plain))
    {
        refused("no request of this association waits for such an APDU")
    } else {
        Ok((envelope, form))
    }
}

/// What is signed, if the meter signed it.
fn signed(keys: &MeterKeys, response: &[u8]) -> Result<Vec<u8>, Error> {
    let Ok(signing) = GeneralSigning::decode(response) else {
        return refused("it is malformed");
    };
    let right = curve(keys.suite).is_some_and(|curve| {
        curve.verifies(
            &keys.signing_key,
            &signing.signing_input(),
            &signing.signature,
        )
    });
    if right {
        Ok(signing.content)
    } else {
        Err(Error::CiphertextInvalid {
            why: "its signature is not the meter's",
        })
    }
}

fn check_counter(state: &State, space: Space, counter: u32) -> Result<(), Error> {
    let checked = match (space, &state.dedicated) {
        (Space::Global, _) => state.received.check(counter),
        (Space::Dedicated, Some(dedicated)) => dedicated.received.check(counter),
        // Without a dedicated key nothing deciphers; with a key of its own the transaction decides.
        (Space::Dedicated, None) | (Space::Own, _) => Ok(()),
    };
    checked.map_err(|_| OLD_COUNTER)
}

fn record(state: &mut State, space: Space, counter: u32, transaction: Option<&[u8]>) {
    match (space, &mut state.dedicated) {
        (Space::Global, _) => state.received.record(counter),
        (Space::Dedicated, Some(dedicated)) => dedicated.received.record(counter),
        (Space::Dedicated, None) => {}
        (Space::Own, _) => state
            .transactions
            .retain(|began| Some(began.as_slice()) != transaction),
    }
}

fn refused<T>(why: &'static str) -> Result<T, Error> {
    Err(Error::ResponseRefused { why })
}

const WRONG_TAG: Error = Error::CiphertextInvalid {
    why: "its tag is wrong",
};
const OLD_COUNTER: Error = Error::CiphertextInvalid {
    why: "its invocation counter is old",
};
