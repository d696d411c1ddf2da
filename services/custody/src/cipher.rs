//! Ciphering requests under a permit. What comes back is in [`crate::receive`].

use dlms::{
    KeyChoice, Protection,
    security::{
        Ciphered, GeneralCiphering, GeneralHeader, GeneralSigning, ReplayWindow, aad, plain_tag,
    },
};
use kit::{PeerName, clock, crash_point};
use latchkey_proto::audit::v1::EntryKind;
use zeroize::Zeroizing;

use crate::{
    apdu::{self, Parsed, Service},
    context::{Context, Dedicated, State},
    crash,
    custody::Custody,
    error::Error,
    keyring::{MeterKeys, STALE_MAX, Sender, Under, curve, signing_label},
    own,
    permit::Allowed,
    step::{Step, apply, step},
    store::Use,
    terms::Space,
    trail,
};

impl Custody {
    /// Ciphers a request, if the permit covers it. Returns the APDU, and the counter of the global key it spent.
    pub(crate) async fn protect(
        &self,
        peer: &PeerName,
        id: &str,
        request: &[u8],
    ) -> Result<(Vec<u8>, u32), Error> {
        let context = self.contexts.get(id, peer, clock::now())?;
        let mut state = context.state.lock().await;
        let step = self.admit(&context, &state, request)?;
        let Some(keys) = context.ciphering() else {
            self.count_uses(&context, step.indices(), 0).await?;
            apply(&context, &mut state, step);
            crash_point(crash::AFTER_PROTECT);
            return Ok((request.to_vec(), 0));
        };
        let initiate = step.is_initiate();
        let space = if initiate {
            Space::Global
        } else {
            context.terms.space()
        };
        let counter = match (space, &mut state.dedicated) {
            (Space::Dedicated, Some(dedicated)) => dedicated.take()?,
            (Space::Dedicated, None) => return Err(NO_DEDICATED_KEY),
            (Space::Global | Space::Own, _) => self.next_counter(&context, &mut state).await?,
        };
        // The meter's counter object is about the global key. A counter of another key must not be compared with it.
        let evidence = match space {
            Space::Global => counter,
            Space::Dedicated | Space::Own => 0,
        };
        if context.rotating.is_some() {
            Box::pin(self.unsettle(&context, &mut state, step.indices())).await?;
        }
        // After this a crash is clean: the use is counted, whether or not the request leaves (P5).
        self.count_uses(&context, step.indices(), evidence).await?;
        let apdu = if initiate {
            let initiated = self.initiate(&context, &mut state, (keys, counter), request, &step);
            Box::pin(initiated).await?
        } else {
            self.cipher(&context, &mut state, (keys, counter), request)
                .await?
        };
        apply(&context, &mut state, step);
        crash_point(crash::AFTER_PROTECT);
        Ok((apdu, evidence))
    }

    /// Decides whether a request may be ciphered now. A refusal is left in the trail.
    fn admit(&self, context: &Context, state: &State, request: &[u8]) -> Result<Step, Error> {
        let parsed =
            apdu::parse(request).inspect_err(|error| self.refused(&context.permit, &[], error))?;
        let asked = match &parsed {
            Parsed::Commands { asked, .. } => asked.clone(),
            Parsed::FirstBlock { heads, .. } => heads.clone(),
            _ => Vec::new(),
        };
        step(context, state, parsed).inspect_err(|error| match error {
            Error::OutOfOrder { .. } => {}
            _ => self.refused(&context.permit, &asked, error),
        })
    }

    /// Counts the commands that are limited, all or none.
    async fn count_uses(
        &self,
        context: &Context,
        indices: &[usize],
        counter: u32,
    ) -> Result<(), Error> {
        let use_us = clock::micros(clock::now());
        let (mut uses, mut asked) = (Vec::new(), Vec::new());
        for index in indices {
            let Some(allowed) = context.allowed.get(*index).filter(|it| it.is_counted()) else {
                continue;
            };
            let used = Use {
                command_index: u32::try_from(*index).unwrap_or(u32::MAX),
                invocation_counter: counter,
                use_us,
            };
            uses.push((used, allowed.max_uses));
            asked.push(allowed.as_permitted());
        }
        if uses.is_empty() {
            return Ok(());
        }
        let detail = match uses.len() {
            1 => "a limited command is ciphered".to_owned(),
            count => format!("{count} limited commands are ciphered in one request"),
        };
        let mut entry = trail::under_permit(EntryKind::KeyUse, &context.permit, &asked, detail);
        entry.invocation_counter = counter;
        let counted = self.store.count_uses(
            &context.permit.permit_id,
            (&context.permit.meter_id, context.fence),
            &uses,
            &entry,
        );
        // What is rare is boxed: a future is as large as the largest thing it may wait for, and is made for each APDU.
        Box::pin(counted).await.inspect_err(|error| {
            if matches!(error, Error::CommandSpent { .. }) {
                self.refused(&context.permit, &asked, error);
            }
        })?;
        self.reporter.stored();
        Ok(())
    }

    /// Ciphers an InitiateRequest: under the global key, with the service-specific tag, never signed, whatever the form
    /// of what follows. That of the AARQ gets the dedicated key, if there is to be one.
    async fn initiate(
        &self,
        context: &Context,
        state: &mut State,
        (keys, counter): (&MeterKeys, u32),
        request: &[u8],
        step: &Step,
    ) -> Result<Vec<u8>, Error> {
        if !(matches!(step, Step::Initiate) && context.terms.protection.is_dedicated()) {
            return self
                .global(context, (keys, counter), Protection::Glo, request)
                .await;
        }
        let token = self.keyring.token();
        let key = Zeroizing::new(token.random(keys.suite.key_len()).await?);
        let request = with_dedicated_key(request, &key)?;
        let apdu = self
            .global(context, (keys, counter), Protection::Glo, &request)
            .await?;
        state.dedicated = Some(Dedicated {
            key: token.hold_clear(&key).await?,
            next: 0,
            received: ReplayWindow::new(1),
        });
        Ok(apdu)
    }

    /// Ciphers any other request in the form of the context, and signs it if that is agreed.
    async fn cipher(
        &self,
        context: &Context,
        state: &mut State,
        (keys, counter): (&MeterKeys, u32),
        request: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let terms = &context.terms;
        let form = terms.form_of(request).ok_or(CANNOT)?;
        let header = self.header(context, keys).await?;
        let apdu = match (form, &state.dedicated) {
            (Protection::GeneralCiphering(choice), _) => {
                self.general(context, (keys, counter), (choice, &header), request)
                    .await?
            }
            (Protection::Ded | Protection::GeneralDed, Some(dedicated)) => {
                let under = Under::Held(&dedicated.key);
                self.agreed(context, (keys, counter, under), form, request)
                    .await?
            }
            (Protection::Ded | Protection::GeneralDed, None) => return Err(NO_DEDICATED_KEY),
            (Protection::Plain | Protection::Glo | Protection::GeneralGlo, _) => {
                self.global(context, (keys, counter), form, request).await?
            }
        };
        if terms.space() == Space::Own {
            state.began(header.transaction_id.clone());
        }
        if !terms.signed {
            return Ok(apdu);
        }
        let curve = curve(terms.suite()).ok_or(CANNOT)?;
        let mut signing = GeneralSigning {
            header,
            content: apdu,
            signature: Vec::new(),
        };
        signing.signature = self
            .keyring
            .token()
            .sign_ecdsa(curve, signing_label(curve), &signing.signing_input())
            .await?;
        Ok(signing.encode())
    }

    /// The header of a general APDU, in a transaction of its own.
    async fn header(&self, context: &Context, keys: &MeterKeys) -> Result<GeneralHeader, Error> {
        let general = matches!(context.terms.protection, Protection::GeneralCiphering(_));
        if !general && !context.terms.signed {
            return Ok(GeneralHeader::default());
        }
        let drawn = self.keyring.token().random(8).await?;
        let transaction = drawn.first_chunk().copied().unwrap_or_default();
        Ok(GeneralHeader::between(
            keys.client_title,
            keys.server_title,
            u64::from_be_bytes(transaction),
        ))
    }

    async fn global(
        &self,
        context: &Context,
        (keys, counter): (&MeterKeys, u32),
        form: Protection,
        request: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.agreed(context, (keys, counter, Under::Global), form, request)
            .await
    }

    /// In a form whose key both sides hold.
    async fn agreed(
        &self,
        context: &Context,
        (keys, counter, under): (&MeterKeys, u32, Under<'_>),
        form: Protection,
        request: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let tag = request.first().and_then(|tag| form.tag(*tag));
        let tag = tag.ok_or(CANNOT)?;
        let control = context.terms.control;
        let gcm =
            keys.gcm(control, Sender::Client, counter)
                .with_aad(aad(control, keys.ak(), request));
        let body = self.keyring.protect(keys, under, &gcm, request).await?;
        let title = plain_tag(tag).is_none().then_some(keys.client_title);
        Ok(Ciphered {
            tag,
            title,
            control,
            counter,
            body,
        }
        .encode())
    }

    /// General-ciphering. A key that was lost with its token before it was used is made again.
    async fn general(
        &self,
        context: &Context,
        keys: (&MeterKeys, u32),
        of: (KeyChoice, &GeneralHeader),
        request: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let mut tries = 0..STALE_MAX;
        loop {
            match self.general_once(context, keys, of, request).await {
                Err(error) if error.is_stale() && tries.next().is_some() => {}
                done => return done,
            }
        }
    }

    async fn general_once(
        &self,
        context: &Context,
        (keys, counter): (&MeterKeys, u32),
        of: (KeyChoice, &GeneralHeader),
        request: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let control = context.terms.control;
        let (key, key_info) = Box::pin(own::make(&self.keyring, keys, &context.terms, of)).await?;
        let gcm = keys
            .gcm(control, Sender::Client, counter)
            .with_aad(of.1.aad(control, keys.ak(), request));
        let under = key.as_ref().map_or(Under::Global, Under::Held);
        let body = self.keyring.protect(keys, under, &gcm, request).await?;
        Ok(GeneralCiphering {
            header: of.1.clone(),
            key_info: Some(key_info),
            control,
            counter,
            body,
        }
        .encode())
    }
}

impl Dedicated {
    /// The next counter: from 0, because the key is new, and never twice.
    fn take(&mut self) -> Result<u32, Error> {
        let counter = self.next;
        self.next = counter.checked_add(1).ok_or(NO_DEDICATED_KEY)?;
        Ok(counter)
    }
}

/// The InitiateRequest with a key in it: exactly as large as it becomes, so that no copy is left behind.
fn with_dedicated_key(request: &[u8], key: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (Some((tag, [0, rest @ ..])), Ok(length)) =
        (request.split_first(), u8::try_from(key.len()))
    else {
        return Err(CANNOT);
    };
    let mut out = Zeroizing::new(Vec::with_capacity(3 + key.len() + rest.len()));
    out.extend_from_slice(&[*tag, 1, length]);
    out.extend_from_slice(key);
    out.extend_from_slice(rest);
    Ok(out)
}

impl Allowed {
    /// Whether its uses are counted: a GET without a limit may be repeated.
    fn is_counted(&self) -> bool {
        self.max_uses > 0 || self.asked.service != Service::Get
    }
}

const CANNOT: Error = Error::ApduNotPermitted {
    why: "it cannot be ciphered",
};
const NO_DEDICATED_KEY: Error = Error::OutOfOrder {
    why: "the association has no dedicated key, or it is spent",
};
