//! What a meter is told when it is made.

use std::{net::SocketAddr, path::PathBuf};

use dlms::{
    ClientAccess, Conformance, LinkConfig, Mechanism, MeterConfig, Protection, SecurityControl,
    SystemTitle, agreement::AlgorithmId, hdlc,
};

use crate::{Error, Fault, LabKeys};

mod words;

pub use words::{Auth, Form, Policy, Profile, Transport};

/// Everything that makes one simulated meter.
#[derive(Debug, Clone)]
pub struct MeterOptions {
    /// Address to listen on; port 0 takes any free one. A serial line has none: see [`Transport::Serial`].
    pub listen: SocketAddr,
    /// What carries its APDUs.
    pub transport: Transport,
    /// The addresses and sizes of HDLC; of no consequence for other transports. Its time-out and retries are the
    /// client's affair.
    pub hdlc: hdlc::Config,
    /// Keys, titles and suite.
    pub lab_keys: LabKeys,
    /// Which objects it has.
    pub profile: Profile,
    /// How its management client authenticates.
    pub auth: Auth,
    /// The forms that the management client's APDUs may have; none means those of `auth`: plain for `none` and `low`,
    /// glo and general-glo for the others. Each is answered in kind.
    pub forms: Vec<Form>,
    /// What of a ciphered APDU is protected, in both directions.
    pub policy: Policy,
    /// Whether the management client's APDUs must be signed as well; so are the answers. Suites 1 and 2.
    pub signed: bool,
    /// How AlgorithmID is written when a key is agreed.
    pub algorithm_id: AlgorithmId,
    /// The longest APDU it receives, ciphering included: 64..65535 octets, 0 for no limit. A small one forces blocks.
    pub max_pdu: u16,
    /// The services it has besides GET, SET and ACTION.
    pub services: Services,
    /// What it tells unasked.
    pub notify: Notify,
    /// A fault to play.
    pub fault: Option<Fault>,
    /// How long a cold boot takes; a warm one takes half of it. At most 3600.
    pub boot_seconds: f64,
    /// Where to keep what a real meter keeps in NVRAM; without it a killed meter starts anew.
    pub state_file: Option<PathBuf>,
    /// Whether a meter that is made anew starts with its relay open, as after a disconnection for non-payment.
    pub disconnected: bool,
    /// A connection with no traffic for this long is closed.
    pub idle_seconds: f64,
}

/// Services that a meter may have or not. The defaults are those of the meters in the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Services {
    /// Several attributes or methods in one request (multiple references).
    pub lists: bool,
    /// ACCESS.
    pub access: bool,
    /// General block transfer. Some clients propose it and cannot do it.
    pub gbt: bool,
    /// Block transfer of GET answers, and of SET and ACTION both ways.
    pub blocks: bool,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            lists: true,
            access: true,
            gbt: false,
            blocks: true,
        }
    }
}

/// What a meter tells unasked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notify {
    /// An EventNotification for each entry of the event log, to the management client while it is associated and has
    /// negotiated it. Over HDLC it waits for the next answer.
    pub events: bool,
    /// A DataNotification to this address when the meter is on the mesh again after a boot: over UDP in a datagram, else
    /// over a TCP connection of its own, in the wrapper, plain.
    pub push: Option<SocketAddr>,
}

/// What a meter demands of its management client, and what it has to offer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) mechanism: Mechanism,
    /// Whether its associations can be ciphered.
    pub(crate) ciphered: bool,
    pub(crate) control: SecurityControl,
    pub(crate) signed: bool,
    pub(crate) conformance: Conformance,
    pub(crate) max_pdu: u16,
}

impl MeterOptions {
    /// A healthy meter of the standard profile over TCP, with HLS5 and suite 0, booting in 5 s.
    #[must_use]
    pub fn new(listen: SocketAddr, lab_keys: LabKeys) -> Self {
        Self {
            listen,
            transport: Transport::Tcp,
            hdlc: hdlc::Config::default(),
            lab_keys,
            profile: Profile::Standard,
            auth: Auth::Hls5,
            forms: Vec::new(),
            policy: Policy::Both,
            signed: false,
            algorithm_id: AlgorithmId::Standard,
            max_pdu: 1024,
            services: Services::default(),
            notify: Notify::default(),
            fault: None,
            boot_seconds: 5.0,
            state_file: None,
            disconnected: false,
            idle_seconds: 120.0,
        }
    }

    /// The boot time in milliseconds.
    pub(crate) fn boot_ms(&self) -> Result<u64, Error> {
        millis(self.boot_seconds).ok_or(Error::BootSeconds(self.boot_seconds))
    }

    /// The idle time-out in milliseconds; nonsense means the default of two minutes.
    pub(crate) fn idle_ms(&self) -> u64 {
        millis(self.idle_seconds)
            .filter(|ms| *ms > 0)
            .unwrap_or(120_000)
    }

    /// Whether the options agree with each other and with the keys.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let forms = self.forms();
        let dedicated = forms.iter().any(|form| form.is_dedicated());
        let why = if let Some(key) = self.lab_keys.missing(self.auth, &forms, self.signed) {
            format!("the lab keys have no {key}, which the authentication, a form or signing needs")
        } else if (1..MAX_PDU_MIN).contains(&self.max_pdu) {
            let found = self.max_pdu;
            format!("APDUs of {found} octets are too short; {MAX_PDU_MIN} at least, or 0")
        } else if dedicated && self.policy == Policy::Authenticated {
            "a dedicated key cannot be sent without encryption; choose another policy or form"
                .into()
        } else if self.hdlc.server(SERVER_SAP).is_err() {
            "the HDLC address does not hold the logical and physical device; use more octets".into()
        } else {
            return Ok(());
        };
        Err(Error::Options(why))
    }

    /// The forms of the management client.
    fn forms(&self) -> Vec<Protection> {
        match (self.forms.as_slice(), self.auth) {
            ([], Auth::None | Auth::Low) => vec![Protection::Plain],
            ([], _) => vec![Protection::Glo, Protection::GeneralGlo],
            (forms, _) => forms.iter().map(|form| form.0).collect(),
        }
    }

    pub(crate) fn terms(&self) -> Terms {
        let forms = self.forms();
        let ciphered = forms.iter().any(|form| form.is_ciphered());
        let bits = [
            (self.services.lists, Conformance::MULTIPLE_REFERENCES),
            (self.services.access, Conformance::ACCESS),
            (self.services.gbt, Conformance::GENERAL_BLOCK_TRANSFER),
            (self.services.blocks, BLOCKS),
            (self.notify.events, Conformance::EVENT_NOTIFICATION),
            (self.notify.push.is_some(), Conformance::DATA_NOTIFICATION),
            (ciphered, Conformance::GENERAL_PROTECTION),
        ];
        let more = bits.into_iter().filter_map(|(has, bit)| has.then_some(bit));
        Terms {
            mechanism: self.auth.mechanism(),
            ciphered,
            control: self.policy.control(self.lab_keys.suite()),
            signed: self.signed,
            conformance: more.fold(BASE, |all, bit| all | bit),
            max_pdu: self.max_pdu,
        }
    }

    /// What the association value of a connection is told.
    pub(crate) fn config(&self) -> MeterConfig {
        let terms = self.terms();
        let management = ClientAccess {
            client_sap: MANAGEMENT_SAP,
            mechanism: terms.mechanism,
            password: self.lab_keys.password().to_vec(),
            forms: self.forms(),
            control: terms.control,
            signed: terms.signed,
        };
        let public = ClientAccess::plain(PUBLIC_SAP, Mechanism::None, Vec::new());
        let title = SystemTitle::new(self.lab_keys.server_system_title());
        MeterConfig {
            link: match &self.transport {
                Transport::Tcp => LinkConfig::Tcp,
                Transport::Udp => LinkConfig::Udp,
                Transport::Hdlc | Transport::Serial { .. } => LinkConfig::Hdlc(self.hdlc.clone()),
            },
            server_sap: SERVER_SAP,
            max_pdu: terms.max_pdu,
            conformance: terms.conformance,
            ..MeterConfig::new(title, vec![management, public])
        }
    }
}

/// Milliseconds of a reasonable number of seconds.
fn millis(seconds: f64) -> Option<u64> {
    let good = (0.0..=3600.0).contains(&seconds);
    let duration = good.then(|| std::time::Duration::try_from_secs_f64(seconds).ok())??;
    u64::try_from(duration.as_millis()).ok()
}

/// The services that every meter has.
const BASE: Conformance = Conformance::new(
    Conformance::GET.bits()
        | Conformance::SET.bits()
        | Conformance::ACTION.bits()
        | Conformance::SELECTIVE_ACCESS.bits()
        | Conformance::PRIORITY_MANAGEMENT.bits(),
);

const BLOCKS: Conformance = Conformance::new(
    Conformance::BLOCK_TRANSFER_GET.bits()
        | Conformance::BLOCK_TRANSFER_SET.bits()
        | Conformance::BLOCK_TRANSFER_ACTION.bits(),
);

/// The logical device.
pub(crate) const SERVER_SAP: u16 = 1;
/// The client that may reset.
pub(crate) const MANAGEMENT_SAP: u16 = 1;
/// The client that may read the invocation counter.
pub(crate) const PUBLIC_SAP: u16 = 16;
/// The shortest APDU that leaves room for a block in every form.
const MAX_PDU_MIN: u16 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_bounded() {
        for (seconds, expected) in [
            (0.0, Some(0)),
            (0.25, Some(250)),
            (3600.0, Some(3_600_000)),
            (3600.1, None),
            (-1.0, None),
            (f64::NAN, None),
        ] {
            assert_eq!(millis(seconds), expected, "{seconds}");
        }
    }
}
