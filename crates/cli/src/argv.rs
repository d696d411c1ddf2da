//! The procedure's own spelling of a command line, made ordinary.
//!
//! The procedure writes `dlms-client –connect –ip 192.168.1.50 –port 4059 –auth HLS7`: a program name that is a
//! verb here, and flags with an en dash. People paste that, so it is understood.

use std::ffi::OsString;

/// Flags of the procedure that people also write with one dash.
const PROCEDURE_FLAGS: [&str; 11] = [
    "attribute",
    "auth",
    "class",
    "connect",
    "data",
    "entries",
    "id",
    "ip",
    "meter",
    "method",
    "port",
];

/// The argument vector with dashes of every kind made `--`, and `dlms-client --connect` made `connect`.
pub(crate) fn normalise(argv: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut argv: Vec<OsString> = argv
        .into_iter()
        .enumerate()
        .map(|(position, argument)| match argument.to_str() {
            Some(text) if position > 0 => flag(text).map_or(argument.clone(), OsString::from),
            _ => argument,
        })
        .collect();
    if let Some(verb) = argv
        .iter()
        .skip(1)
        .position(|argument| argument == "dlms-client")
    {
        name_the_verb(&mut argv, verb + 1);
    }
    argv
}

/// Whether JSON is asked for, on a command line that is otherwise not understood.
pub(crate) fn wants_json(argv: impl IntoIterator<Item = OsString>) -> bool {
    let argv = normalise(argv);
    let after = argv.iter().skip(1);
    argv.iter().any(|argument| argument == "--output=json")
        || argv
            .iter()
            .zip(after)
            .any(|(flag, value)| flag == "--output" && value == "json")
}

/// `dlms-client --connect …` is `connect …`; `dlms-client get-object …` is `get-object …`.
fn name_the_verb(argv: &mut Vec<OsString>, verb: usize) {
    let connect = argv
        .iter()
        .skip(verb)
        .position(|argument| argument == "--connect");
    match connect {
        Some(flag) => {
            argv.remove(verb + flag);
            if let Some(place) = argv.get_mut(verb) {
                *place = "connect".into();
            }
        }
        None => drop(argv.remove(verb)),
    }
}

/// The ordinary spelling of a flag, or `None` if the argument is to stay as it is.
fn flag(argument: &str) -> Option<String> {
    let name = argument.trim_start_matches(is_dash);
    let dashes = &argument[..argument.len() - name.len()];
    let first = name.chars().next()?;
    if dashes.is_empty() {
        None
    } else if dashes.chars().any(|dash| dash != '-') {
        match first {
            // `--data –5` is a negative number.
            '0'..='9' => Some(format!("-{name}")),
            letter if letter.is_ascii_alphabetic() => {
                let dashes = if name.len() == 1 { "-" } else { "--" };
                Some(format!("{dashes}{name}"))
            }
            _ => None,
        }
    } else if dashes == "-" {
        let bare = name.split('=').next().unwrap_or(name);
        PROCEDURE_FLAGS.contains(&bare).then(|| format!("--{name}"))
    } else {
        None
    }
}

/// The hyphens, dashes and minus signs that editors make of `-`.
fn is_dash(character: char) -> bool {
    matches!(
        character,
        '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> String {
        let argv = normalise(line.split(' ').map(OsString::from));
        let words: Vec<_> = argv.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn the_procedures_lines_become_ordinary_ones() {
        for (pasted, meant) in [
            (
                "latchkey dlms-client –connect –ip 192.168.1.50 –port 4059 –auth HLS7",
                "latchkey connect --ip 192.168.1.50 --port 4059 --auth HLS7",
            ),
            (
                "latchkey get-object –id 0.0.96.1.2.255 –attribute 2",
                "latchkey get-object --id 0.0.96.1.2.255 --attribute 2",
            ),
            (
                "latchkey invoke-method –-id 0.0.96.1.2.255 -method 1 —data 0",
                "latchkey invoke-method --id 0.0.96.1.2.255 --method 1 --data 0",
            ),
            (
                "latchkey read-profile -id=1.0.99.1.0.255 −entries=1",
                "latchkey read-profile --id=1.0.99.1.0.255 --entries=1",
            ),
            (
                "latchkey --output json dlms-client --connect --ip ::1",
                "latchkey --output json connect --ip ::1",
            ),
            (
                "latchkey dlms-client get-object --id 1.2.3",
                "latchkey get-object --id 1.2.3",
            ),
        ] {
            assert_eq!(of(pasted), meant);
        }
    }

    #[test]
    fn ordinary_lines_stay_as_they_are() {
        for line in [
            "latchkey reset meter-0001 --tier cold --wait",
            "latchkey -h",
            "latchkey invoke-method --data -5",
            "latchkey reset m --reason - --ticket –",
            "–ip",
        ] {
            assert_eq!(of(line), line);
        }
        assert_eq!(
            of("latchkey invoke-method –data –5"),
            "latchkey invoke-method --data -5"
        );
    }

    #[test]
    fn json_is_seen_wherever_it_stands() {
        for (line, json) in [
            ("latchkey --output json bogus", true),
            ("latchkey reset --output=json", true),
            ("latchkey reset –output json", true),
            ("latchkey --output text json", false),
            ("latchkey bogus", false),
        ] {
            assert_eq!(
                wants_json(line.split(' ').map(OsString::from)),
                json,
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_not_utf_8_is_left_alone() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = OsString::from_vec(vec![0xff, b'-']);
        assert_eq!(normalise([OsString::from("latchkey"), odd.clone()])[1], odd);
    }
}
