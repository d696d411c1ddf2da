//! In which form the APDUs of an association must be protected, and whether octets have exactly that form.

use crate::cause::Cause;
use crate::security::{
    Envelope, GENERAL_CIPHERING, GENERAL_DED, GENERAL_GLO, GENERAL_SIGNING, GeneralSigning,
    Protection, SecurityControl, Suite, SystemTitle,
};

/// What is agreed. An APDU in any other form is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) form: Protection,
    pub(crate) control: SecurityControl,
    pub(crate) signed: bool,
}

/// Who sends an APDU, and to whom; a receiver without a title is anybody.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parties {
    pub(crate) from: SystemTitle,
    pub(crate) to: Option<SystemTitle>,
}

impl Terms {
    /// Of an InitiateRequest or InitiateResponse, whatever comes after it: the global key, no signature.
    pub(crate) const fn initiate(self) -> Self {
        Self {
            form: Protection::Glo,
            signed: false,
            ..self
        }
    }

    pub(crate) const fn with(self, form: Protection) -> Self {
        Self { form, ..self }
    }

    /// Whether anything is done to APDUs.
    pub(crate) const fn protects(self) -> bool {
        self.signed || self.form.is_ciphered()
    }

    /// The suite of tokens and signatures.
    pub(crate) fn suite(self) -> Suite {
        self.control.suite().unwrap_or_default()
    }

    /// The same under the same key, in the form that this tag says: a peer may answer in the general form where the
    /// service-specific one was asked in, and what has no service-specific tag comes so.
    pub(crate) fn as_tagged(self, tag: u8) -> Self {
        match (self.form, tag) {
            (Protection::Glo, GENERAL_GLO) => self.with(Protection::GeneralGlo),
            (Protection::Ded, GENERAL_DED) => self.with(Protection::GeneralDed),
            _ => self,
        }
    }

    /// Whether an APDU whose first octet this is may be a protected notification.
    pub(crate) const fn may_notify(tag: u8) -> bool {
        matches!(
            tag,
            0xCA | 0xD2 | GENERAL_GLO | GENERAL_DED | GENERAL_CIPHERING | GENERAL_SIGNING
        )
    }

    /// The terms of an APDU with this plaintext tag: a service without service-specific tags goes in the general form,
    /// which the conformance block must grant.
    pub(crate) fn of_service(self, plain_tag: u8, general: bool) -> Option<Self> {
        let can = |terms: Self| !terms.form.is_ciphered() || terms.form.tag(plain_tag).is_some();
        let sibling = if self.form.is_dedicated() {
            Protection::GeneralDed
        } else {
            Protection::GeneralGlo
        };
        [self, self.with(sibling)]
            .into_iter()
            .find(|terms| can(*terms) && (general || terms.form == self.form))
    }

    /// How many octets protection adds to an APDU of this length.
    fn overhead(self, plain: usize) -> usize {
        let ciphering = self.form.overhead(self.control, plain);
        if !self.signed {
            return ciphering;
        }
        let content = plain.saturating_add(ciphering);
        ciphering.saturating_add(GeneralSigning::overhead(self.suite(), content))
    }

    /// How long an APDU of this length is when it is protected.
    pub(crate) fn length(self, plain: usize) -> usize {
        plain.saturating_add(self.overhead(plain))
    }

    /// The longest plaintext APDU that is no longer than `limit` when it is protected.
    pub(crate) fn room(self, limit: usize) -> usize {
        let fits = |plain: usize| self.length(plain) <= limit;
        let least = limit.saturating_sub(self.overhead(limit));
        // a shorter length may take fewer octets to write
        (1..=4)
            .map(|more| least.saturating_add(more))
            .take_while(|plain| fits(*plain))
            .last()
            .unwrap_or(least)
    }

    /// The tag of the ciphering of an APDU that is protected exactly so; `None` if it is signed only.
    pub(crate) fn check(self, apdu: &[u8], parties: Parties) -> Result<Option<u8>, Cause> {
        let envelope = Envelope::of(apdu)?;
        let found = apdu.first().copied().unwrap_or_default();
        if self.signed && !envelope.signed {
            return Err(if envelope.protection.is_ciphered() {
                Cause::Unsigned { tag: found }
            } else {
                Cause::Unprotected { tag: found }
            });
        }
        let as_good = envelope.protection.is_as_good_as(self.form);
        if envelope.signed != self.signed || !as_good {
            let expected = self.form;
            return Err(if envelope.signed || envelope.protection.is_ciphered() {
                Cause::WrongForm { expected, found }
            } else {
                Cause::Unprotected { tag: found }
            });
        }
        if let Some(found) = envelope.control.filter(|found| *found != self.control) {
            let expected = self.control;
            return Err(Cause::WrongProtection { expected, found });
        }
        if let Some(found) = envelope.originator.filter(|title| *title != parties.from) {
            let expected = parties.from;
            return Err(Cause::WrongServerTitle { expected, found });
        }
        match (envelope.recipient, parties.to) {
            (Some(found), Some(due)) if found != due => {
                Err(Cause::Mismatch("it is meant for another client"))
            }
            _ => Ok(self.form.is_ciphered().then_some(envelope.tag)),
        }
    }

    /// Whether an APDU that was ciphered under `outside` may have `inside` as its first octet.
    pub(crate) fn holds(self, outside: Option<u8>, inside: u8) -> bool {
        let forms = [
            self.form,
            Protection::Glo,
            Protection::GeneralGlo,
            Protection::Ded,
            Protection::GeneralDed,
        ];
        outside.is_none_or(|outside| {
            forms
                .into_iter()
                .filter(|form| form.is_as_good_as(self.form))
                .any(|form| form.tag(inside) == Some(outside))
        })
    }
}

/// A fingerprint: what the holder of the keys hands back is what it was given, and what came before comes again. It
/// finds mistakes and duplicates, not forgeries (FNV-1a of 64 bits).
pub(crate) fn print(octets: &[u8]) -> u64 {
    octets.iter().fold(0xCBF2_9CE4_8422_2325, |print, octet| {
        (print ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
