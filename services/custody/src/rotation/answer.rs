//! What a meter answers to the ACTION of a rotation. The answer is authentic: custody deciphered it.

use dlms::{
    Response,
    agreement::{Algorithm, KeyAgreement, KeyId, KeyTransfer, other_info},
};
use hsm::Curve;

use super::{Rotating, Which};
use crate::{
    context::{Context, State},
    custody::Custody,
    error::Error,
    keyring::{MeterKeys, curve},
    store::GenerationRow,
};

/// `temporary-failure`, and `hardware-fault`: the meter could not look.
const NOT_NOW: [u8; 2] = [1, 2];

impl Custody {
    /// Takes the answer to the ACTION of a rotation, if this is it.
    pub(crate) async fn rekeyed(
        &self,
        context: &Context,
        state: &mut State,
        apdu: &[u8],
    ) -> Result<(), Error> {
        let Some(rotating) = &context.rotating else {
            return Ok(());
        };
        if !state.rekeying {
            return Ok(());
        }
        let Ok(Response::Action { result, data, .. }) = Response::decode(apdu) else {
            return Ok(());
        };
        state.rekeying = false;
        let keys = context.keys.as_ref().ok_or(Error::ContextUnknown)?;
        match (rotating.which, result.code()) {
            (Which::Old, 0) => {
                let data = data.and_then(Result::ok);
                self.sent(context, rotating, (keys, data)).await
            }
            (Which::Old, code) => self.not_taken(context, rotating, code).await,
            (Which::New, 0) => {
                let said = "the meter takes its new master key, wrapped under itself";
                self.activated(context, rotating, (None, said)).await
            }
            (Which::New, code) if NOT_NOW.contains(&code) => {
                self.note(
                    rotating,
                    &format!("the meter could not tell now (result {code})"),
                )
                .await
            }
            (Which::New, code) => self.not_confirmed(context, rotating, code).await,
        }
    }

    /// The meter says yes.
    async fn sent(
        &self,
        context: &Context,
        rotating: &Rotating,
        (keys, data): (&MeterKeys, Option<dlms::Data>),
    ) -> Result<(), Error> {
        let plan = &rotating.plan;
        if plan.agreed {
            return match self.agree(context, rotating, keys, data.as_ref()).await {
                Ok(()) => {
                    self.note(rotating, "the meter has agreed on a key; not confirmed yet")
                        .await
                }
                Err(error @ Error::RotationAnswer { .. }) => {
                    self.refused(&context.permit, &[], &error);
                    self.note(rotating, &error.to_string()).await
                }
                Err(error) => Err(error),
            };
        }
        if plan.keys.ciphers() || plan.keys.is_master() {
            return self
                .note(rotating, "the meter has said yes; not proven yet")
                .await;
        }
        // Nothing can be asked about a broadcast key. The yes is authentic, and about this transfer: no other was sent.
        let said = "the meter has said yes to its new broadcast key";
        self.activated(context, rotating, (None, said)).await
    }

    /// The meter says no.
    async fn not_taken(
        &self,
        context: &Context,
        rotating: &Rotating,
        code: u8,
    ) -> Result<(), Error> {
        let said = format!("the meter did not take the new keys (result {code})");
        // An earlier attempt may have been taken: then this one was under a master key that is gone, or beside the point.
        if rotating.attempts == 0 || rotating.plan.keys.ciphers() {
            self.kept(context, rotating, (&said, true)).await
        } else {
            let both = format!("{said}, and an earlier attempt is not settled");
            self.note(rotating, &both).await
        }
    }

    /// The meter has not the master key that it should have.
    async fn not_confirmed(
        &self,
        context: &Context,
        rotating: &Rotating,
        code: u8,
    ) -> Result<(), Error> {
        if rotating.plan.agreed {
            let of = (
                rotating.plan.rotation_id.as_str(),
                context.permit.meter_id.as_str(),
            );
            let said = format!(
                "the meter does not know the key that was agreed (result {code}): agree again"
            );
            self.agreements.remove(of.0);
            return self.store.disagreed(of, &said).await;
        }
        // Whether it has the old one the next transfer tells, which goes under it.
        let said = format!("the meter does not know its new master key (result {code})");
        self.note(rotating, &said).await
    }

    async fn note(&self, rotating: &Rotating, said: &str) -> Result<(), Error> {
        let rotation_id = &rotating.plan.rotation_id;
        self.store
            .rotation_note(rotation_id, Some(said), false)
            .await
    }

    /// Derives the key that the meter agreed on, and stores it, before anybody hears of the answer.
    async fn agree(
        &self,
        context: &Context,
        rotating: &Rotating,
        keys: &MeterKeys,
        data: Option<&dlms::Data>,
    ) -> Result<(), Error> {
        let (curve, peer) = answered(keys, data)?;
        let rotation_id = &rotating.plan.rotation_id;
        // Each half is used once, whatever comes of it.
        let half = self.agreements.get(rotation_id);
        self.agreements.remove(rotation_id);
        let half = half.ok_or(wrong("our half of the agreement is gone"))?;
        let algorithm = Algorithm::of(keys.suite, KeyId::Master);
        let (client, server) = (keys.client_title.bytes(), keys.server_title.bytes());
        let info = other_info(context.terms.algorithm_id, algorithm, &client, &server);
        let row = self.stored_keys(&context.permit.meter_id).await?;
        let rotation = self.store.rotation(rotation_id).await?;
        let rotation = rotation.ok_or(Error::RotationUnknown)?;
        let label = super::candidate::kek("mk", rotation.kek_generation);
        let token = self.keyring.token();
        let made = token.agree_master(&half.own, &peer, &info, &label).await;
        let made = made.map_err(|error| match error {
            hsm::Error::PublicKeyInvalid => wrong("its ephemeral key is no point of the curve"),
            hsm::Error::StaleKey => {
                wrong("our half of the agreement is gone: the token was opened anew")
            }
            other => other.into(),
        })?;
        tracing::debug!(?curve, rotation_id, "a master key is agreed");
        let highest = self
            .store
            .highest_generation(&row.meter_id, KeyId::Master)
            .await?;
        let mut key = GenerationRow::agreed(&row, highest, made.kept);
        key.kek_generation = rotation.kek_generation;
        self.keyring.seal_generation(&mut key).await?;
        let confirm = KeyTransfer {
            key: KeyId::Master,
            wrapped: made.confirmed,
        };
        let confirm = KeyTransfer::to_data(&[confirm]).encode();
        let sealed = self.sealed(&rotation, "confirm", &confirm).await?;
        self.store.agreed_key(rotation_id, &key, &sealed).await
    }
}

/// The meter's ephemeral key, if it is signed by the meter.
fn answered(keys: &MeterKeys, data: Option<&dlms::Data>) -> Result<(Curve, Vec<u8>), Error> {
    let curve = curve(keys.suite).ok_or(wrong("suite 0 has no key agreement"))?;
    let items = data.and_then(|data| KeyAgreement::from_data(keys.suite, data).ok());
    match items.as_deref() {
        Some([item]) if item.key == KeyId::Master => {
            let input = KeyAgreement::signing_input(item.key, &item.data.public);
            if !curve.verifies(&keys.signing_key, &input, &item.data.signature) {
                return Err(wrong("its ephemeral key is not signed by the meter"));
            }
            Ok((curve, item.data.public.clone()))
        }
        _ => Err(wrong("it is not one ephemeral key for the master key")),
    }
}

const fn wrong(why: &'static str) -> Error {
    Error::RotationAnswer { why }
}
