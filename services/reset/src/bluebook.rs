//! Under which class the Blue Book knows a logical name, for people who name an object without it.

use dlms::Obis;

/// The class; `None` if the name alone does not say.
pub(crate) fn class_of(name: Obis) -> Option<u16> {
    match name.bytes() {
        [0, _, 1, 0, _, _] => Some(8),
        [0, _, 42, 0, 0, _] => Some(1),
        // firmware: active version of the device, or of one of its parts
        [1, 0..=4, 0, 2, 0 | 8, _] => Some(1),
        [0, _, 10, 0, _, _] => Some(9),
        // below 106 a script table's E is the maker's
        [0, _, 10, 1..=127, 0, _] => Some(9),
        [0, _, 17, 0, _, _] => Some(71),
        [0, 0, 40, 0, _, _] => Some(15),
        [0, 0, 43, 0, _, _] => Some(64),
        [0, _, 43, 1, _, _] => Some(1),
        [0, _, 44, 0, _, _] => Some(18),
        [0, _, 96, 3, 10, _] => Some(70),
        [0, _, 96, 8, _, _] => Some(3),
        // device ids, power failures, event codes
        [0, _, 96, 1 | 7 | 11, _, _] => Some(1),
        [0, _, 99, 98, _, _] | [1, _, 99, 1 | 2, _, _] => Some(7),
        // instantaneous values and energy
        [1, _, _, 7 | 8, _, _] => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_names() {
        for (name, class_id) in [
            ("0.0.1.0.0.255", Some(8)),
            ("0.0.42.0.0.255", Some(1)),
            ("1.0.0.2.0.255", Some(1)),
            ("1.2.0.2.0.255", Some(1)),
            ("0.0.10.0.0.255", Some(9)),
            ("0.0.10.1.0.255", Some(9)),
            ("0.0.43.0.0.255", Some(64)),
            ("0.0.43.1.0.255", Some(1)),
            ("0.0.96.1.2.255", Some(1)),
            ("0.0.96.3.10.255", Some(70)),
            ("0.0.96.7.21.255", Some(1)),
            ("0.0.99.98.0.255", Some(7)),
            ("1.0.99.1.0.255", Some(7)),
            ("1.0.1.8.0.255", Some(3)),
            ("9.9.9.9.9.255", None),
        ] {
            assert_eq!(class_of(name.parse().expect("a name")), class_id, "{name}");
        }
    }
}
