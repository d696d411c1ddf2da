//! One attempt of a rotation of keys: sends what custody prepared, and opens associations so that the meter can prove which
//! keys it has. Nothing is decided here: custody takes the proofs, and says what the rotation has come to.
//!
//! | keys | sent in | proven by |
//! |---|---|---|
//! | GUEK, GAK (and GBEK with them) | an association under the old keys | opening one under the new keys; else one under the old |
//! | master key | any association | sending it once more, wrapped under itself |
//! | GBEK alone | any association | the answer |
//!
//! Each is tried once: a wrong key is a failed authentication at the meter, and a meter that sees many locks everybody out.

use std::time::Duration;

use latchkey_proto::{
    association::v1::{Delivery, InvokeResponse, RotateKeysResponse},
    audit::v1::{Command, SignedPermit},
    custody::v1::{
        BeginRotationRequest, BeginRotationResponse, KeyKind, Rotation, RotationKeys, RotationState,
    },
};

use crate::{
    associations::{Associations, OpenOrder},
    command,
    directory::Meter,
    error::Error,
    lease::Holder,
};

/// Lines of evidence, and octets of each.
const EVIDENCE_MAX: usize = 16;
const LINE_MAX: usize = 256;

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) associations: Associations,
    pub(crate) meter: Meter,
    pub(crate) permit: SignedPermit,
    pub(crate) holder: Holder,
    pub(crate) answer_timeout: Duration,
    pub(crate) probe_only: bool,
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    evidence: Vec<String>,
    /// Of the ACTION that carried the keys.
    answer: Option<InvokeResponse>,
}

impl Attempt {
    /// Looks first, if the keys may have been sent before; sends them; looks again. An error means that custody did not
    /// begin, and nothing was sent.
    pub(crate) async fn run(self) -> Result<RotateKeysResponse, Error> {
        let mut seen = Seen::default();
        let mut begun = self.begin().await?;
        if state(&begun) == RotationState::Unsettled {
            self.probe(&begun, &mut seen).await;
            begun = self.begin().await?;
        }
        let unknown = ciphers(&begun) && state(&begun) == RotationState::Unsettled;
        let over = matches!(
            state(&begun),
            RotationState::Active | RotationState::Abandoned
        );
        if !(over || unknown || self.probe_only) {
            // What came of it, or that nothing was sent, is in the evidence; which keys the meter has custody says.
            self.send(&begun, &mut seen).await;
            begun = match self.begin().await {
                Ok(begun) => begun,
                Err(error) => return Ok(self.uncertain(begun, seen, &error)),
            };
            if state(&begun) == RotationState::Unsettled {
                self.probe(&begun, &mut seen).await;
                begun = match self.begin().await {
                    Ok(begun) => begun,
                    Err(error) => return Ok(self.uncertain(begun, seen, &error)),
                };
            }
        }
        Ok(render(begun.rotation, seen))
    }

    /// What custody has of the rotation, and what it would send.
    async fn begin(&self) -> Result<BeginRotationResponse, Error> {
        let request = BeginRotationRequest {
            permit: Some(self.permit.clone()),
            meter_id: self.meter.id.clone(),
        };
        let custody = self.associations.tools().custody.first();
        let mut custody = custody.ok_or(Error::AssociationGone)?.client();
        let begun = custody.begin_rotation(request).await;
        Ok(begun.map_err(Error::Custody)?.into_inner())
    }

    /// Sends the new keys under the old ones.
    async fn send(&self, begun: &BeginRotationResponse, seen: &mut Seen) {
        let command = begun.send.as_ref();
        let told = ("the new keys", &mut seen.evidence);
        if let Ok(answer) = self.visit(RotationKeys::Old, command, told).await {
            seen.answer = answer;
        }
    }

    /// Lets the meter prove which keys it has: the new ones, and if it does not, the old ones. What comes of it custody
    /// knows; an error here is a line of evidence.
    async fn probe(&self, begun: &BeginRotationResponse, seen: &mut Seen) {
        if !ciphers(begun) {
            if let Some(command) = &begun.confirm {
                let told = ("the new key once more", &mut seen.evidence);
                // Told already.
                let _ = self.visit(RotationKeys::New, Some(command), told).await;
            }
            return;
        }
        for keys in [RotationKeys::New, RotationKeys::Old] {
            let told = ("nothing", &mut seen.evidence);
            if self.visit(keys, None, told).await.is_ok() {
                return;
            }
        }
    }

    /// One association: opened, used for at most one command, released.
    async fn visit(
        &self,
        keys: RotationKeys,
        command: Option<&Command>,
        (what, evidence): (&str, &mut Vec<String>),
    ) -> Result<Option<InvokeResponse>, Error> {
        let under = if keys == RotationKeys::New {
            "new"
        } else {
            "old"
        };
        let order = OpenOrder {
            meter: self.meter.clone(),
            permit: self.permit.clone(),
            holder: self.holder.clone(),
            public_client: false,
            rotation_keys: keys,
        };
        let opened = self.associations.open(order).await;
        let (association_id, _) = opened.inspect_err(|error| {
            tell(
                evidence,
                format!("no association under the {under} keys: {error}"),
            );
        })?;
        let asked = match command {
            None => None,
            Some(command) => Some(command::parse(Some(command))?),
        };
        let answer = match asked {
            None => {
                tell(
                    evidence,
                    format!("an association is open under the {under} keys"),
                );
                Ok(None)
            }
            Some(asked) => {
                let peer = &self.holder.peer;
                let answer = self
                    .associations
                    .invoke(peer, &association_id, asked, self.answer_timeout)
                    .await;
                let answer = answer.map(crate::answer::Answer::render);
                tell(
                    evidence,
                    format!("{what}, sent under the {under} keys: {}", said(&answer)),
                );
                answer.map(Some)
            }
        };
        self.associations
            .release(&self.holder.peer, &association_id)
            .await;
        answer
    }

    /// Something was sent, and custody does not answer any more.
    fn uncertain(
        &self,
        begun: BeginRotationResponse,
        mut seen: Seen,
        error: &Error,
    ) -> RotateKeysResponse {
        tell(
            &mut seen.evidence,
            format!("custody could not be asked what it came to: {error}"),
        );
        let rotation = begun.rotation.map(|rotation| Rotation {
            state: RotationState::Unsettled.into(),
            ..rotation
        });
        render(rotation, seen)
    }
}

fn state(begun: &BeginRotationResponse) -> RotationState {
    begun
        .rotation
        .as_ref()
        .map_or(RotationState::Unspecified, Rotation::state)
}

/// Whether APDUs are under one of the keys that change.
fn ciphers(begun: &BeginRotationResponse) -> bool {
    let mut keys = begun.rotation.iter().flat_map(Rotation::keys);
    keys.any(|key| {
        matches!(
            key,
            KeyKind::GlobalUnicastEncryption | KeyKind::GlobalAuthentication
        )
    })
}

fn said(answer: &Result<InvokeResponse, Error>) -> String {
    match answer {
        Ok(answer) if answer.delivery() == Delivery::Answered => {
            format!("the meter answered {}", answer.result)
        }
        Ok(answer) => format!("no answer ({})", answer.cause),
        Err(error) => format!("nothing was sent: {error}"),
    }
}

fn tell(evidence: &mut Vec<String>, line: String) {
    if evidence.len() < EVIDENCE_MAX {
        evidence.push(line.chars().take(LINE_MAX).collect());
    }
}

fn render(rotation: Option<Rotation>, seen: Seen) -> RotateKeysResponse {
    let answer = seen.answer.unwrap_or_default();
    RotateKeysResponse {
        rotation,
        delivery: answer.delivery,
        result: answer.result,
        invocation_counter: answer.invocation_counter,
        evidence: seen.evidence,
    }
}
