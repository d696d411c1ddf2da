//! The xDLMS initiate service and the two error APDUs (IEC 62056-5-3).

use serde_json::{Value, json};

use super::fault::{Fault, Kind};
use super::talk::Context;
use super::walk::{Said, Step, Walk, first, signed, unsigned};

pub(crate) fn request(w: &mut Walk<'_>, c: &mut Context<'_>) -> Step {
    if w.present("dedicated-key")? {
        w.prefixed("dedicated-key", |octets| {
            c.talk.dedicated(octets);
            Said::secret(octets, "a key")
        })?;
    }
    if w.present("response-allowed")? {
        w.boolean("response-allowed")?;
    }
    quality(w, "proposed-quality-of-service")?;
    w.u8("proposed-dlms-version-number")?;
    conformance(w, "proposed-conformance")?;
    w.u16("client-max-receive-pdu-size").map(drop)
}

pub(crate) fn response(w: &mut Walk<'_>) -> Step {
    quality(w, "negotiated-quality-of-service")?;
    w.u8("negotiated-dlms-version-number")?;
    conformance(w, "negotiated-conformance")?;
    w.u16("server-max-receive-pdu-size")?;
    w.leaf("vaa-name", 2, |octets| {
        let name = match unsigned(octets) {
            0x0007 => "logical name referencing",
            0xfa00 => "short name referencing",
            _ => "not a value of the standard",
        };
        Said::new(
            hex::encode(octets),
            format!("{}: {name}", hex::encode(octets)),
        )
    })
    .map(drop)
}

fn quality(w: &mut Walk<'_>, name: &'static str) -> Step {
    if w.present(name)? {
        w.leaf(name, 1, |octets| {
            Said::new(signed(octets), signed(octets).to_string())
        })?;
    }
    Ok(())
}

fn conformance(w: &mut Walk<'_>, name: &'static str) -> Step {
    w.group(name, |w| {
        let at = w.at();
        // [APPLICATION 31], which older meters write in one octet
        let tag = if w.peek_at(1) == Some(0x1f) { 2 } else { 1 };
        let octets = w.mark("tag", tag, |_| "[APPLICATION 31]".to_owned())?;
        if first(octets) != 0x5f {
            return Err(w.fail(Fault::new(
                Kind::UnknownTag,
                at,
                "5f 1f, the conformance block",
                hex::encode(octets),
            )));
        }
        let at = w.at();
        let length = w.length("the conformance block")?;
        if length != 4 {
            return Err(w.fail(Fault::new(
                Kind::BadValue,
                at,
                "a conformance block of 4 octets",
                length.to_string(),
            )));
        }
        w.mark("unused bits", 1, |octets| {
            format!("{} unused bits", first(octets))
        })?;
        w.leaf("bits", 3, |octets| {
            let bits = u32::try_from(unsigned(octets)).unwrap_or_default();
            let names: Vec<_> = (0..24)
                .zip(CONFORMANCE)
                .filter(|(bit, _)| bits & (0x80_0000 >> bit) != 0)
                .map(|(_, name)| name)
                .collect();
            Said::new(hex::encode(octets), names.join(", ")).also("services", names)
        })
        .map(drop)
    })
}

const CONFORMANCE: [&str; 24] = [
    "reserved-zero",
    "general-protection",
    "general-block-transfer",
    "read",
    "write",
    "unconfirmed-write",
    "delta-value-encoding",
    "reserved-seven",
    "attribute0-supported-with-set",
    "priority-mgmt-supported",
    "attribute0-supported-with-get",
    "block-transfer-with-get-or-read",
    "block-transfer-with-set-or-write",
    "block-transfer-with-action",
    "multiple-references",
    "information-report",
    "data-notification",
    "access",
    "parameterized-access",
    "get",
    "set",
    "selective-access",
    "event-notification",
    "action",
];

pub(crate) fn exception(w: &mut Walk<'_>) -> Step {
    w.code("state-error", |code| match code {
        1 => "service-not-allowed",
        2 => "service-unknown",
        _ => "not in the standard",
    })?;
    let service = w.code("service-error", |code| match code {
        1 => "operation-not-possible",
        2 => "service-not-supported",
        3 => "other-reason",
        4 => "pdu-too-long",
        5 => "deciphering-error",
        6 => "invocation-counter-error",
        _ => "not in the standard",
    })?;
    if service == 6 {
        w.u32("invocation-counter")?;
    }
    w.note("an exception-response is not protected: a hint, never proof");
    Ok(())
}

pub(crate) fn confirmed_service_error(w: &mut Walk<'_>) -> Step {
    let at = w.at();
    let choice = w.code("service", |choice| {
        usize::from(choice)
            .checked_sub(1)
            .and_then(|at| SERVICES.get(at))
            .unwrap_or(&UNKNOWN)
    })?;
    if !(1..=19).contains(&choice) {
        w.record(Fault::new(
            Kind::UnknownTag,
            at,
            "a confirmed service (01..13)",
            format!("{choice:02x}"),
        ));
    }
    let at = w.at();
    let error = w.leaf("service-error", 1, |octets| {
        let (name, _) = ERRORS
            .get(usize::from(first(octets)))
            .copied()
            .unwrap_or((UNKNOWN, &[]));
        Said::code(first(octets).into(), name)
    })?;
    let names = ERRORS.get(usize::from(first(error)));
    if names.is_none() {
        w.record(Fault::new(
            Kind::UnknownTag,
            at,
            "a service error (00..0a)",
            hex::encode(error),
        ));
    }
    w.leaf("value", 1, |octets| {
        let name = names.and_then(|(_, names)| names.get(usize::from(first(octets))));
        let said: Value = json!({ "code": first(octets), "name": name });
        let name = name.copied().unwrap_or(UNKNOWN);
        Said::new(said, format!("{name} ({})", first(octets)))
    })
    .map(drop)
}

const UNKNOWN: &str = "not in the standard";

const SERVICES: [&str; 19] = [
    "initiateError",
    "getStatus",
    "getNameList",
    "getVariableAttribute",
    "read",
    "write",
    "getDataSetAttribute",
    "getTIAttribute",
    "changeScope",
    "start",
    "stop",
    "resume",
    "makeUsable",
    "initiateLoad",
    "loadSegment",
    "terminateLoad",
    "initiateUpLoad",
    "upLoadSegment",
    "terminateUpLoad",
];

const ERRORS: [(&str, &[&str]); 11] = [
    (
        "application-reference",
        &[
            "other",
            "time-elapsed",
            "application-unreachable",
            "application-reference-invalid",
            "application-context-unsupported",
            "provider-communication-error",
            "deciphering-error",
        ],
    ),
    (
        "hardware-resource",
        &[
            "other",
            "memory-unavailable",
            "processor-resource-unavailable",
            "mass-storage-unavailable",
            "other-resource-unavailable",
        ],
    ),
    (
        "vde-state-error",
        &[
            "other",
            "no-dlms-context",
            "loading-data-set",
            "status-nochange",
            "status-inoperable",
        ],
    ),
    ("service", &["other", "pdu-size", "service-unsupported"]),
    (
        "definition",
        &[
            "other",
            "object-undefined",
            "object-class-inconsistent",
            "object-attribute-inconsistent",
        ],
    ),
    (
        "access",
        &[
            "other",
            "scope-of-access-violated",
            "object-access-violated",
            "hardware-fault",
            "object-unavailable",
        ],
    ),
    (
        "initiate",
        &[
            "other",
            "dlms-version-too-low",
            "incompatible-conformance",
            "pdu-size-too-short",
            "refused-by-the-VDE-handler",
        ],
    ),
    (
        "load-data-set",
        &[
            "other",
            "primitive-out-of-sequence",
            "not-loadable",
            "dataset-size-too-large",
            "not-awaited-segment",
            "interpretation-failure",
            "storage-failure",
            "data-set-not-ready",
        ],
    ),
    ("change-scope", &["other"]),
    (
        "task",
        &[
            "other",
            "no-remote-control",
            "ti-stopped",
            "ti-running",
            "ti-unusable",
        ],
    ),
    ("other", &["other"]),
];
