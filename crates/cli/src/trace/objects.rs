//! Names of classes, attributes, methods and well-known objects (IEC 62056-6-1 and 62056-6-2).

use dlms::{Obis, cosem::Class};

/// A logical name with what it is known as.
pub(crate) fn named(obis: [u8; 6]) -> String {
    match name(obis) {
        Some(name) => format!("{} ({name})", Obis::new(obis)),
        None => Obis::new(obis).to_string(),
    }
}

/// What an object is known as.
pub(crate) fn name(obis: [u8; 6]) -> Option<&'static str> {
    OBJECTS
        .iter()
        .find(|(pattern, _)| matches(pattern, obis))
        .map(|(_, name)| *name)
}

/// Groups by dots; `x` is any, `0-9` a range.
fn matches(pattern: &str, obis: [u8; 6]) -> bool {
    let mut groups = pattern.split('.');
    obis.iter().all(|group| {
        groups
            .next()
            .is_some_and(|wanted| match wanted.split_once('-') {
                Some((low, high)) => {
                    low.parse().is_ok_and(|low: u8| *group >= low)
                        && high.parse().is_ok_and(|high: u8| *group <= high)
                }
                None => wanted == "x" || wanted.parse() == Ok(*group),
            })
    })
}

/// The first that fits counts.
const OBJECTS: &[(&str, &str)] = &[
    ("0.x.1.0.0.255", "clock"),
    ("0.x.2.0.0.255", "modem configuration"),
    ("0.x.10.0.0.255", "global meter reset script table"),
    (
        "0.x.10.0.1.255",
        "MDI reset / end of billing period script table",
    ),
    ("0.x.10.0.100.255", "tariffication script table"),
    ("0.x.10.0.103.255", "set output signals script table"),
    ("0.x.10.0.106.255", "disconnect control script table"),
    ("0.x.10.0.107.255", "image activation script table"),
    ("0.x.10.0.108.255", "push script table"),
    ("0.x.10.1-127.0.255", "manufacturer-specific script table"),
    ("0.x.11.0.0.255", "special days table"),
    ("0.x.13.0.0.255", "activity calendar"),
    ("0.x.15.0.0.255", "end of billing period schedule"),
    ("0.x.15.0.1.255", "disconnect control schedule"),
    ("0.x.15.0.2.255", "image activation schedule"),
    ("0.x.15.0.4.255", "push schedule"),
    ("0.x.17.0.x.255", "limiter"),
    ("0.x.20.0.0.255", "IEC local port setup"),
    ("0.x.21.0.x.255", "standard readout profile"),
    ("0.x.22.0.0.255", "HDLC setup"),
    ("0.x.24.1.x.255", "M-Bus client"),
    ("0.x.24.4.x.255", "M-Bus disconnect control"),
    ("0.x.25.0.0.255", "TCP-UDP setup"),
    ("0.x.25.1.0.255", "IPv4 setup"),
    ("0.x.25.3.0.255", "PPP setup"),
    ("0.x.25.4.0.255", "GPRS modem setup"),
    ("0.x.25.6.0.255", "GSM diagnostics"),
    ("0.x.25.7.0.255", "IPv6 setup"),
    ("0.x.25.9.0.255", "push setup"),
    ("0.x.40.0.x.255", "association LN"),
    ("0.0.41.0.0.255", "SAP assignment"),
    ("0.0.42.0.0.255", "COSEM logical device name"),
    ("0.0.43.0.x.255", "security setup"),
    ("0.x.43.1.x.255", "invocation counter"),
    ("0.0.44.0.0.255", "image transfer"),
    ("0.x.94.31-49.x.255", "country-specific object"),
    (
        "0.0.96.1.2.255",
        "device ID 3 (the procedure's reset object)",
    ),
    ("x.x.96.1.0-9.255", "device ID"),
    ("x.x.96.1.10.255", "metering point ID"),
    ("x.x.96.2.0.255", "number of configuration changes"),
    ("x.x.96.2.1.255", "date of last configuration change"),
    ("x.x.96.3.1.255", "input control"),
    ("x.x.96.3.2.255", "output control"),
    ("x.x.96.3.10.255", "disconnect control"),
    ("x.x.96.5.x.255", "internal operating status"),
    ("x.x.96.6.0.255", "battery use time"),
    ("x.x.96.7.0-4.255", "number of power failures"),
    ("x.x.96.7.5-9.255", "number of long power failures"),
    ("x.x.96.7.10-14.255", "time of power failure"),
    ("x.x.96.7.15-19.255", "duration of power failure"),
    ("x.x.96.7.21.255", "number of power failures in any phase"),
    ("x.x.96.8.0.255", "time of operation"),
    ("x.x.96.9.0.255", "ambient temperature"),
    ("x.x.96.10.x.255", "status register"),
    ("x.x.96.11.x.255", "event code"),
    ("x.x.96.13.x.255", "consumer message"),
    ("x.x.96.14.x.255", "currently active tariff"),
    ("x.x.96.15.x.255", "event counter"),
    ("x.x.97.97.x.255", "error register"),
    ("x.x.97.98.0-9.255", "alarm register"),
    ("x.x.97.98.10-19.255", "alarm filter"),
    ("x.x.97.98.20-29.255", "alarm descriptor"),
    ("x.x.98.1.x.255", "data of billing period"),
    ("0.0.99.98.0.255", "standard event log"),
    ("0.0.99.98.1.255", "fraud detection log"),
    ("0.0.99.98.2.255", "disconnector control log"),
    ("0.x.99.98.3.255", "M-Bus event log"),
    ("0.0.99.98.4.255", "communication event log"),
    ("0.0.99.98.5-8.255", "power quality log"),
    ("x.x.99.98.x.255", "event log"),
    ("x.x.99.1.x.255", "load profile with period 1"),
    ("x.x.99.2.x.255", "load profile with period 2"),
    ("x.x.99.97.x.255", "power failure event log"),
    ("1.x.0.0.x.255", "electricity ID"),
    ("1.0.0.2.0.255", "active firmware identifier"),
    ("1.0.0.2.8.255", "active firmware signature"),
    ("1.1-4.0.2.0.255", "firmware identifier of a module"),
    ("1.1-4.0.2.8.255", "firmware signature of a module"),
    ("1.x.0.8.4.255", "recording period 1"),
    ("1.x.0.8.5.255", "recording period 2"),
    ("1.x.1.8.x.255", "active energy import (+A)"),
    ("1.x.2.8.x.255", "active energy export (-A)"),
    ("1.x.3.8.x.255", "reactive energy import (+R)"),
    ("1.x.4.8.x.255", "reactive energy export (-R)"),
    ("1.x.9.8.x.255", "apparent energy import (+S)"),
    ("1.x.1.7.0.255", "instantaneous active power import (+A)"),
    ("1.x.2.7.0.255", "instantaneous active power export (-A)"),
    ("1.x.3.7.0.255", "instantaneous reactive power import (+R)"),
    ("1.x.4.7.0.255", "instantaneous reactive power export (-R)"),
    ("1.x.1.6.x.255", "maximum demand, active import"),
    ("1.x.2.6.x.255", "maximum demand, active export"),
    ("1.x.13.7.0.255", "instantaneous power factor"),
    ("1.x.14.7.0.255", "instantaneous frequency"),
    ("1.x.31.7.0.255", "instantaneous current L1"),
    ("1.x.51.7.0.255", "instantaneous current L2"),
    ("1.x.71.7.0.255", "instantaneous current L3"),
    ("1.x.32.7.0.255", "instantaneous voltage L1"),
    ("1.x.52.7.0.255", "instantaneous voltage L2"),
    ("1.x.72.7.0.255", "instantaneous voltage L3"),
];

/// The name of an interface class.
pub(crate) fn class(class_id: u64) -> &'static str {
    match class_id {
        1 => "Data",
        3 => "Register",
        4 => "Extended register",
        5 => "Demand register",
        6 => "Register activation",
        7 => "Profile generic",
        8 => "Clock",
        9 => "Script table",
        10 => "Schedule",
        11 => "Special days table",
        12 => "Association SN",
        15 => "Association LN",
        17 => "SAP assignment",
        18 => "Image transfer",
        19 => "IEC local port setup",
        20 => "Activity calendar",
        21 => "Register monitor",
        22 => "Single action schedule",
        23 => "IEC HDLC setup",
        26 => "Utility tables",
        27 => "Modem configuration",
        28 => "Auto answer",
        29 => "Auto connect",
        30 => "Data protection",
        40 => "Push setup",
        41 => "TCP-UDP setup",
        42 => "IPv4 setup",
        43 => "MAC address setup",
        44 => "PPP setup",
        45 => "GPRS modem setup",
        46 => "SMTP setup",
        47 => "GSM diagnostic",
        48 => "IPv6 setup",
        61 => "Register table",
        62 => "Compact data",
        63 => "Status mapping",
        64 => "Security setup",
        65 => "Parameter monitor",
        67 => "Sensor manager",
        68 => "Arbitrator",
        70 => "Disconnect control",
        71 => "Limiter",
        72 => "M-Bus client",
        111 => "Account",
        112 => "Credit",
        113 => "Charge",
        115 => "Token gateway",
        122 => "Function control",
        123 => "Array manager",
        124 => "Communication port protection",
        _ => "class not named here",
    }
}

/// The name of an attribute.
pub(crate) fn attribute(class_id: u64, index: i64) -> &'static str {
    let known = known(class_id, index).and_then(|(class, index)| class.attribute(index));
    known.unwrap_or(match (class_id, index) {
        (_, 0) => "all attributes",
        (_, 1) => "logical_name",
        (4, 2) => "value",
        (4, 3) | (5, 4) => "scaler_unit",
        (4, 4) => "status",
        (4, 5) => "capture_time",
        (5, 2) => "current_average_value",
        (5, 3) => "last_average_value",
        (12, 2) => "object_list",
        (17, 2) => "SAP_assignment_list",
        _ => "attribute",
    })
}

/// The name of a method.
pub(crate) fn method(class_id: u64, index: i64) -> &'static str {
    let known = known(class_id, index).and_then(|(class, index)| class.method(index));
    known.unwrap_or(match (class_id, index) {
        (4 | 5, 1) => "reset",
        _ => "method",
    })
}

/// A class that the DLMS core knows by heart.
fn known(class_id: u64, index: i64) -> Option<(&'static Class, i8)> {
    let class = Class::find(u16::try_from(class_id).ok()?)?;
    Some((class, i8::try_from(index).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_names_it() {
        for (obis, said) in [
            (
                [0, 0, 96, 1, 2, 255],
                Some("device ID 3 (the procedure's reset object)"),
            ),
            ([0, 0, 96, 1, 3, 255], Some("device ID")),
            ([1, 0, 1, 8, 2, 255], Some("active energy import (+A)")),
            (
                [0, 1, 10, 1, 0, 255],
                Some("manufacturer-specific script table"),
            ),
            ([9, 9, 9, 9, 9, 9], None),
        ] {
            assert_eq!(name(obis), said, "{obis:?}");
        }
        assert_eq!(named([0, 0, 1, 0, 0, 255]), "0.0.1.0.0.255 (clock)");
    }

    #[test]
    fn members_have_names_in_classes_known_and_unknown() {
        assert_eq!(attribute(70, 3), "control_state");
        assert_eq!(attribute(4, 3), "scaler_unit");
        assert_eq!(attribute(8192, 1), "logical_name");
        assert_eq!(attribute(70, 99), "attribute");
        assert_eq!(attribute(70, i64::MAX), "attribute");
        assert_eq!(method(64, 3), "key_agreement");
        assert_eq!(method(5, 1), "reset");
        assert_eq!(method(70, 3), "method");
    }

    #[test]
    fn every_pattern_has_six_groups() {
        for (pattern, _) in OBJECTS {
            assert_eq!(pattern.split('.').count(), 6, "{pattern}");
            for group in pattern.split('.').flat_map(|group| group.split('-')) {
                assert!(group == "x" || group.parse::<u8>().is_ok(), "{pattern}");
            }
        }
    }
}
