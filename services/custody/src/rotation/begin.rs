//! The beginning of a rotation, and what is sent in it.

use dlms::{
    Suite,
    agreement::{KeyAgreement, KeyId, SignedKey},
};
use kit::{PeerName, clock};
use latchkey_proto::audit::v1::{
    Command, CommandService, EntryKind, Permit, Purpose, SignedPermit,
};
use zeroize::Zeroizing;

use super::{AGREEMENT, CLASS, Half, KeySet, Plan, Rotating, TRANSFER, Which, candidate::kek};
use crate::{
    custody::Custody,
    error::Error,
    keyring::{MeterKeys, curve, signing_label},
    permit::{Allowed, Verified},
    seal::bound,
    store::{Beginning, GenerationRow, KeyRow, RotationRow, RotationState},
    terms::Terms,
    trail,
};

/// A rotation, and what is to be sent in it.
pub(crate) struct Begun {
    pub(crate) rotation: RotationRow,
    pub(crate) send: Option<Command>,
    pub(crate) confirm: Option<Command>,
}

/// What a context of a rotation begins with.
pub(crate) struct Entered {
    pub(crate) rotating: Rotating,
    pub(crate) keys: MeterKeys,
}

impl Custody {
    /// Makes the new keys of a rotation, unless they are there.
    pub(crate) async fn begin_rotation(
        &self,
        peer: &PeerName,
        signed: &SignedPermit,
        meter_id: &str,
    ) -> Result<Begun, Error> {
        let verified = self.verified(peer, signed, meter_id)?;
        let begun = self.begin_verified(&verified, meter_id).await;
        begun.inspect_err(|error| match error {
            Error::PermitRefused { .. }
            | Error::RotationUnderWay { .. }
            | Error::RotationImpossible { .. } => self.refused(&verified.permit, &[], error),
            _ => {}
        })
    }

    async fn begin_verified(&self, verified: &Verified, meter_id: &str) -> Result<Begun, Error> {
        let plan = rekeying(verified)?;
        let row = self.stored_keys(meter_id).await?;
        let rotation = match self.store.rotation(&plan.rotation_id).await? {
            Some(rotation) => rotation,
            None => self.new_rotation(&verified.permit, &plan, &row).await?,
        };
        same(&rotation, &plan, meter_id)?;
        if rotation.state.is_over() {
            return Ok(Begun {
                rotation,
                send: None,
                confirm: None,
            });
        }
        let send = match plan.agreed {
            true => self.half(&plan, &row).await?.parameter,
            false => self.parameter(&rotation, "send").await?.to_vec(),
        };
        let confirm = match rotation.sealed_confirm.is_empty() || rotation.attempts == 0 {
            true => None,
            false => Some(self.parameter(&rotation, "confirm").await?.to_vec()),
        };
        let method = if plan.agreed { AGREEMENT } else { TRANSFER };
        Ok(Begun {
            send: Some(command(&plan, method, send)),
            confirm: confirm.map(|parameter| command(&plan, TRANSFER, parameter)),
            rotation,
        })
    }

    async fn new_rotation(
        &self,
        permit: &Permit,
        plan: &Plan,
        row: &KeyRow,
    ) -> Result<RotationRow, Error> {
        fits(plan, row)?;
        let before = self.store.rotation_of(&row.meter_id).await?;
        let adopted = match &before {
            Some(before) => takes_place(before, plan)?,
            None => false,
        };
        let mut rotation = RotationRow {
            rotation_id: plan.rotation_id.clone(),
            meter_id: row.meter_id.clone(),
            keys: plan.keys,
            agreed: plan.agreed,
            state: RotationState::New,
            sealed_send: Vec::new(),
            sealed_confirm: Vec::new(),
            kek_generation: row.generations.kek,
            attempts: 0,
            openings: 0,
            detail: "the new keys are stored".to_owned(),
            create_us: clock::micros(clock::now()),
        };
        let (mut keys, mut fingerprints) = (Vec::new(), Vec::new());
        match &before {
            Some(before) if adopted => self.adopt(&mut rotation, before).await?,
            _ if plan.agreed => {}
            _ => {
                let made = self.candidates_of(row, plan.keys).await?;
                rotation.sealed_send = self.sealed(&rotation, "send", &made.send).await?;
                if !made.confirm.is_empty() {
                    let confirm = self.sealed(&rotation, "confirm", &made.confirm).await?;
                    rotation.sealed_confirm = confirm;
                }
                (keys, fingerprints) = (made.keys, made.fingerprints);
            }
        }
        let entry = trail::under_permit(
            EntryKind::Key,
            permit,
            &[],
            story(&rotation, &keys, adopted),
        );
        let begin = Beginning {
            rotation: &rotation,
            keys: &keys,
            fingerprints: &fingerprints,
            instead_of: before
                .as_ref()
                .map(|it| (it.rotation_id.as_str(), !adopted)),
            entry: &entry,
        };
        if self.store.begin_rotation(&begin).await? {
            self.reporter.stored();
            return Ok(rotation);
        }
        // Somebody else began one at the same moment: the same, if this request came twice.
        let there = self.store.rotation(&plan.rotation_id).await?;
        there.ok_or_else(|| under_way(&row.meter_id, ""))
    }

    async fn candidates_of(
        &self,
        row: &KeyRow,
        keys: KeySet,
    ) -> Result<super::candidate::Candidates, Error> {
        let mut generations = Vec::new();
        for key in keys.iter() {
            let highest = self.store.highest_generation(&row.meter_id, key).await?;
            generations.push(highest.max(generation(row, key)).saturating_add(1));
        }
        self.keyring.candidates(row, keys, &generations).await
    }

    /// Goes on with the keys of an earlier rotation: the meter may have them, or be about to.
    async fn adopt(&self, rotation: &mut RotationRow, before: &RotationRow) -> Result<(), Error> {
        rotation.state = before.state;
        rotation.attempts = before.attempts;
        rotation.openings = before.openings;
        rotation.detail.clone_from(&before.detail);
        for what in ["send", "confirm"] {
            let from = sealed_in(before, what);
            if from.is_empty() {
                continue;
            }
            let opened = self.parameter(before, what).await?;
            let sealed = self.sealed(rotation, what, &opened).await?;
            match what {
                "send" => rotation.sealed_send = sealed,
                _ => rotation.sealed_confirm = sealed,
            }
        }
        Ok(())
    }

    pub(super) async fn sealed(
        &self,
        rotation: &RotationRow,
        what: &str,
        parameter: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let label = kek("ak", rotation.kek_generation);
        let token = self.keyring.token();
        Ok(token
            .protect_ak(&label, &binding(rotation, what), parameter)
            .await?)
    }

    async fn parameter(
        &self,
        rotation: &RotationRow,
        what: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let label = kek("ak", rotation.kek_generation);
        let sealed = sealed_in(rotation, what);
        let token = self.keyring.token();
        let opened = token
            .reveal_ak(&label, &binding(rotation, what), sealed)
            .await;
        opened.map_err(|error| match error {
            hsm::Error::AuthFailed | hsm::Error::Length { .. } => Error::KeyRowChanged {
                meter: rotation.meter_id.clone(),
            },
            other => other.into(),
        })
    }

    /// Our half of a key agreement: the one there is, or a new one.
    async fn half(&self, plan: &Plan, row: &KeyRow) -> Result<Half, Error> {
        if let Some(half) = self.agreements.get(&plan.rotation_id) {
            return Ok(half);
        }
        let curve = curve(row.suite).ok_or(NO_CURVE)?;
        let token = self.keyring.token();
        let (own, public) = token.begin_agreement(curve).await?;
        let input = KeyAgreement::signing_input(KeyId::Master, &public);
        let signature = token
            .sign_ecdsa(curve, signing_label(curve), &input)
            .await?;
        let item = KeyAgreement {
            key: KeyId::Master,
            data: SignedKey { public, signature },
        };
        let parameter = KeyAgreement::to_data(&[item]).encode();
        let half = Half { own, parameter };
        self.agreements.put(&plan.rotation_id, half.clone());
        Ok(half)
    }

    /// What a context of a rotation ciphers, and with which keys. Counts it.
    pub(crate) async fn enter(
        &self,
        verified: &mut Verified,
        (terms, row): (&Terms, &KeyRow),
        which: Which,
    ) -> Result<Entered, Error> {
        let plan = rekeying(verified)?;
        if !terms.is_authentic() {
            return Err(Error::AssociationRefused {
                why: "keys are changed in associations that are ciphered and authenticated",
            });
        }
        let rotation = self.store.rotation(&plan.rotation_id).await?;
        let rotation = rotation.ok_or(Error::RotationUnknown)?;
        same(&rotation, &plan, &row.meter_id)?;
        if rotation.state.is_over() {
            return Err(Error::RotationOver);
        }
        let mut encryption = None;
        let keys = if which == Which::New && plan.keys.ciphers() {
            let new = self.store.new_keys(&row.meter_id).await?;
            encryption = new
                .iter()
                .find(|key| key.key == KeyId::GlobalUnicastEncryption)
                .map(|key| key.generation);
            self.keyring.candidate_keys(row, &new, terms.need()).await?
        } else {
            self.keyring.meter_keys(row, terms.need()).await?
        };
        let real = match which {
            Which::Old if plan.agreed => {
                let half = self.agreements.get(&plan.rotation_id);
                Some((AGREEMENT, half.ok_or(Error::RotationUnknown)?.parameter))
            }
            Which::Old => Some((TRANSFER, self.parameter(&rotation, "send").await?.to_vec())),
            Which::New if rotation.sealed_confirm.is_empty() => None,
            Which::New => Some((
                TRANSFER,
                self.parameter(&rotation, "confirm").await?.to_vec(),
            )),
        };
        if let Some((method, parameter)) = real {
            put_in_place(&mut verified.allowed, method, parameter);
        }
        self.count_opening(&plan.rotation_id).await?;
        Ok(Entered {
            rotating: Rotating {
                plan,
                which,
                encryption,
                attempts: rotation.attempts,
            },
            keys,
        })
    }

    /// Each opening may be a failed authentication at the meter, and a meter that sees too many locks everybody out.
    async fn count_opening(&self, rotation_id: &str) -> Result<(), Error> {
        let max = self.rotations.openings_max;
        let since = clock::now()
            .checked_sub(WINDOW)
            .map_or(i64::MIN, clock::micros);
        match self.store.count_opening(rotation_id, max, since).await? {
            true => Ok(()),
            false => Err(Error::RotationOpeningsSpent { max }),
        }
    }
}

/// The rotation of a permit.
fn rekeying(verified: &Verified) -> Result<Plan, Error> {
    if verified.permit.purpose() == Purpose::Rekey {
        return Plan::of(&verified.allowed);
    }
    Err(Error::PermitRefused {
        why: "it is not for a change of keys".to_owned(),
    })
}

/// The real parameter in the place of the one that names the rotation.
fn put_in_place(allowed: &mut [Allowed], method: i8, parameter: Vec<u8>) {
    let place = allowed.iter_mut().find(|it| it.asked.index == method);
    if let Some(place) = place {
        let named = std::mem::replace(&mut place.asked.parameter, parameter);
        place.named = Some(named);
    }
}

fn same(rotation: &RotationRow, plan: &Plan, meter_id: &str) -> Result<(), Error> {
    let same = rotation.meter_id == meter_id
        && (rotation.keys, rotation.agreed) == (plan.keys, plan.agreed);
    if same {
        return Ok(());
    }
    Err(Error::PermitRefused {
        why: "its rotation is of another meter, or of other keys".to_owned(),
    })
}

/// Whether the meter has what a rotation needs.
fn fits(plan: &Plan, row: &KeyRow) -> Result<(), Error> {
    let why = if row.wrapped_encryption_key.is_empty() || row.sealed_authentication_key.is_empty() {
        "the meter has no global keys: nothing of its association is ciphered"
    } else if plan.agreed && row.suite == Suite::Suite0 {
        "keys are agreed in suites 1 and 2"
    } else if plan.agreed && row.server_signing_key.is_empty() {
        "the meter's public key for signatures is not known: nobody could tell with whom the key is agreed"
    } else if !plan.agreed && row.wrapped_master_key.is_empty() {
        "the meter's master key is not known, and a key transfer goes under it: agree on one first (suites 1 and 2)"
    } else {
        return Ok(());
    };
    Err(Error::RotationImpossible { why })
}

/// Whether a new rotation goes on with the keys of the one before; an error if it must wait for it.
///
/// Keys that may have reached the meter are not thrown away: the meter could take them into use after all. But agreement
/// sets a master key whatever the meter has now.
fn takes_place(before: &RotationRow, plan: &Plan) -> Result<bool, Error> {
    if (before.keys, before.agreed) == (plan.keys, plan.agreed) {
        return Ok(before.attempts > 0);
    }
    let overruled = plan.agreed && before.keys.is_master();
    if before.attempts == 0 || overruled {
        return Ok(false);
    }
    Err(under_way(&before.meter_id, &before.rotation_id))
}

fn under_way(meter_id: &str, rotation_id: &str) -> Error {
    Error::RotationUnderWay {
        meter: meter_id.to_owned(),
        rotation: rotation_id.to_owned(),
    }
}

fn generation(row: &KeyRow, key: KeyId) -> u32 {
    let of = &row.generations;
    match key {
        KeyId::GlobalUnicastEncryption => of.encryption,
        KeyId::GlobalBroadcastEncryption => of.broadcast,
        KeyId::GlobalAuthentication => of.authentication,
        KeyId::Master => of.master,
    }
}

fn sealed_in<'a>(rotation: &'a RotationRow, what: &str) -> &'a [u8] {
    match what {
        "send" => &rotation.sealed_send,
        _ => &rotation.sealed_confirm,
    }
}

/// The additional authenticated data of a parameter.
pub(super) fn binding(rotation: &RotationRow, what: &str) -> Vec<u8> {
    bound(
        b"latchkey-rotation-v1",
        &[
            rotation.rotation_id.as_bytes(),
            rotation.meter_id.as_bytes(),
            &[rotation.keys.bits(), u8::from(rotation.agreed)],
            what.as_bytes(),
        ],
    )
}

fn command(plan: &Plan, method: i8, parameter: Vec<u8>) -> Command {
    Command {
        service: CommandService::Action.into(),
        class_id: CLASS.into(),
        logical_name: plan.setup.to_string(),
        index: method.into(),
        parameter,
        max_uses: 1,
        ..Command::default()
    }
}

/// What the trail says of a rotation that begins.
fn story(rotation: &RotationRow, keys: &[GenerationRow], adopted: bool) -> String {
    let how = match (rotation.agreed, adopted) {
        (true, _) => "to be agreed".to_owned(),
        (false, true) => "those of the rotation before".to_owned(),
        (false, false) => {
            let of = |key: &GenerationRow| match key.check_value.as_slice() {
                [] => format!("generation {}", key.generation),
                value => format!(
                    "generation {}, check value {}",
                    key.generation,
                    hex::encode(value)
                ),
            };
            keys.iter().map(of).collect::<Vec<_>>().join("; ")
        }
    };
    format!("new keys stored, not in force: {} ({how})", rotation.keys)
}

const NO_CURVE: Error = Error::RotationImpossible {
    why: "keys are agreed in suites 1 and 2",
};
/// In which unproven openings are counted.
const WINDOW: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
