//! What goes with what in a meter's facts. The rules look at the message: every one that is broken is named at once.

use latchkey_proto::{
    association::v1::{self as pb, Transport},
    custody::v1::{AlgorithmId, KeyInfo, Mechanism, Protection, SecurityPolicy},
};

use super::{security::is_agreed, transport::address_octets};

/// A rule: whether it holds, the field to change, and what was expected.
type Rule = (bool, &'static str, &'static str);

/// The rules a meter breaks: each with its field and with what was expected.
pub(super) fn broken(meter: &pb::Meter) -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut rules = Vec::new();
    rules.extend(values(meter));
    rules.extend(security(meter));
    rules.extend(link(meter));
    if meter.transport() == Transport::Hdlc {
        rules.extend(hdlc(meter));
    }
    rules
        .into_iter()
        .filter_map(|(holds, field, why)| (!holds).then_some((field, why)))
}

/// Numbers that stand for something. One that this program does not know must not pass for its default.
fn values(meter: &pb::Meter) -> [Rule; 7] {
    let security = meter.security.unwrap_or_default();
    [
        (
            meter.mechanism() != Mechanism::Unspecified,
            "mechanism",
            "is required",
        ),
        (
            meter.protection() != Protection::Unspecified,
            "protection",
            "is required",
        ),
        (
            Transport::try_from(meter.transport).is_ok(),
            "transport",
            "is unknown",
        ),
        (security.suite <= 2, "security.suite", "must be 0, 1 or 2"),
        (
            SecurityPolicy::try_from(security.policy).is_ok(),
            "security.policy",
            "is unknown",
        ),
        (
            KeyInfo::try_from(security.key_info).is_ok(),
            "security.key_info",
            "is unknown",
        ),
        (
            AlgorithmId::try_from(security.algorithm_id).is_ok(),
            "security.algorithm_id",
            "is unknown",
        ),
    ]
}

fn security(meter: &pb::Meter) -> [Rule; 9] {
    let security = meter.security.unwrap_or_default();
    let (mechanism, protection) = (meter.mechanism(), meter.protection());
    let curve = matches!(security.suite, 1 | 2);
    let plain = protection == Protection::Plain;
    let ecdsa = mechanism == Mechanism::HlsEcdsa;
    let agreed = is_agreed(security.key_info());
    [
        (
            !ecdsa || curve,
            "mechanism",
            "MECHANISM_HLS_ECDSA needs security.suite 1 or 2",
        ),
        (
            security.suite == 0 || !plain || ecdsa,
            "security.suite",
            "must be 0 where nothing is ciphered or signed",
        ),
        (
            security.policy() == SecurityPolicy::Unspecified || !plain,
            "security.policy",
            "must be left out with PROTECTION_PLAIN",
        ),
        (
            !security.signed || curve,
            "security.signed",
            "needs security.suite 1 or 2: suite 0 has no signatures",
        ),
        (
            !security.signed || !plain,
            "security.signed",
            "goes around ciphered APDUs: not with PROTECTION_PLAIN",
        ),
        (
            security.key_info() == KeyInfo::Unspecified
                || protection == Protection::GeneralCiphering,
            "security.key_info",
            "goes with PROTECTION_GENERAL_CIPHERING only",
        ),
        (
            !agreed || curve,
            "security.key_info",
            "an agreed key needs security.suite 1 or 2",
        ),
        (
            security.algorithm_id() == AlgorithmId::Unspecified || agreed,
            "security.algorithm_id",
            "goes with an agreed key only",
        ),
        (
            !meter.send_certificate || ecdsa,
            "send_certificate",
            "goes with MECHANISM_HLS_ECDSA only",
        ),
    ]
}

fn link(meter: &pb::Meter) -> [Rule; 4] {
    let hdlc = meter.transport() == Transport::Hdlc;
    let serial = meter.address.starts_with("serial:");
    [
        (
            !serial || hdlc,
            "transport",
            "must be TRANSPORT_HDLC on a serial line",
        ),
        (
            hdlc || meter.hdlc.is_none(),
            "hdlc",
            "goes with TRANSPORT_HDLC only",
        ),
        (
            meter.link_mtu == 0 || (128..=65_535).contains(&meter.link_mtu),
            "link_mtu",
            "must be 0 or 128..65535",
        ),
        (
            meter.link_mtu == 0 || !serial,
            "link_mtu",
            "must be 0 on a serial line, which carries no packets",
        ),
    ]
}

/// The addresses of IEC 62056-46: seven bits in one octet, twice seven in two, twice fourteen in four.
fn hdlc(meter: &pb::Meter) -> [Rule; 6] {
    let options = meter.hdlc.unwrap_or_default();
    let octets = address_octets(&options);
    let (upper_max, lower_max) = match octets {
        1 => (0x7F, 0),
        2 => (0x7F, 0x7F),
        _ => (0x3FFF, 0x3FFF),
    };
    [
        (
            matches!(octets, 1 | 2 | 4),
            "hdlc.address_octets",
            "must be 0, 1, 2 or 4",
        ),
        (
            options.physical_address <= lower_max,
            "hdlc.physical_address",
            "does not fit hdlc.address_octets: 0 with 1, 0..127 with 2, 0..16383 with 4",
        ),
        (
            meter.server_sap <= upper_max,
            "server_sap",
            "does not fit hdlc.address_octets: 0..127 with 1 and 2, 0..16383 with 4",
        ),
        (
            meter.client_sap <= 0x7F,
            "client_sap",
            "must be 0..127 with TRANSPORT_HDLC",
        ),
        (
            matches!(options.max_information, 0 | 32..=2_030),
            "hdlc.max_information",
            "must be 0 or 32..2030",
        ),
        (options.window <= 7, "hdlc.window", "must be 0..7"),
    ]
}
