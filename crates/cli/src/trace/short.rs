//! The services of short name referencing: read, write, their answers, information report (IEC 62056-5-3, 9.3.14 to 9.3.18).

use super::data::data;
use super::fault::{Fault, Kind};
use super::walk::{Said, Step, Walk, first, unsigned};

pub(crate) fn walk(w: &mut Walk<'_>, tag: u8) -> Step {
    match tag {
        0x05 => list(w, "variable-access-specification", variable),
        0x06 | 0x16 => {
            list(w, "variable-access-specification", variable)?;
            list(w, "list-of-data", |w| data(w, "element"))
        }
        0x0c => list(w, "read-response", |w| {
            choice(
                w,
                &[
                    "data",
                    "data-access-error",
                    "data-block-result",
                    "block-number",
                ],
                |w, choice| match choice {
                    0 => data(w, "data"),
                    1 => access_error(w),
                    2 => block(w),
                    _ => w.u16("block-number").map(drop),
                },
            )
        }),
        0x0d => list(w, "write-response", |w| {
            choice(
                w,
                &["success", "data-access-error", "block-number"],
                |w, choice| match choice {
                    0 => Ok(()),
                    1 => access_error(w),
                    _ => w.u16("block-number").map(drop),
                },
            )
        }),
        _ => {
            if w.present("current-time")? {
                w.prefixed("current-time", |octets| {
                    let text = String::from_utf8_lossy(octets).into_owned();
                    Said::new(text.clone(), text)
                })?;
            }
            list(w, "variable-access-specification", variable)?;
            list(w, "list-of-data", |w| data(w, "element"))
        }
    }
}

fn list(
    w: &mut Walk<'_>,
    name: &'static str,
    mut element: impl FnMut(&mut Walk<'_>) -> Step,
) -> Step {
    let count = w.count("count", name)?;
    w.list(name, |w| (0..count).try_for_each(|_| element(w)))
}

fn choice(
    w: &mut Walk<'_>,
    names: &[&'static str],
    walk: impl FnOnce(&mut Walk<'_>, u8) -> Step,
) -> Step {
    w.group("element", |w| {
        let at = w.at();
        let octets = w.mark("choice", 1, |octets| format!("[{}]", first(octets)))?;
        let choice = first(octets);
        let Some(name) = names.get(usize::from(choice)) else {
            return Err(w.fail(Fault::new(
                Kind::UnknownTag,
                at,
                format!("one of {}", names.join(", ")),
                format!("{choice:02x}"),
            )));
        };
        w.say(*name, *name);
        walk(w, choice)
    })
}

fn variable(w: &mut Walk<'_>) -> Step {
    w.group("element", |w| {
        let at = w.at();
        let octets = w.mark("choice", 1, |octets| format!("[{}]", first(octets)))?;
        match first(octets) {
            2 => {
                w.say("variable-name", "variable-name");
                name(w)
            }
            4 => {
                w.say("parameterized-access", "parameterized-access");
                name(w)?;
                w.u8("selector")?;
                data(w, "parameter")
            }
            5 => {
                w.say("block-number-access", "block-number-access");
                w.u16("block-number").map(drop)
            }
            6 => {
                w.say("read-data-block-access", "read-data-block-access");
                block(w)
            }
            7 => {
                w.say("write-data-block-access", "write-data-block-access");
                w.boolean("last-block")?;
                w.u16("block-number").map(drop)
            }
            found => Err(w.fail(Fault::new(
                Kind::UnknownTag,
                at,
                "a variable access specification (02, 04 to 07)",
                format!("{found:02x}"),
            ))),
        }
    })
}

fn name(w: &mut Walk<'_>) -> Step {
    w.leaf("variable-name", 2, |octets| {
        Said::new(unsigned(octets), format!("{:04x}", unsigned(octets)))
    })
    .map(drop)
}

fn block(w: &mut Walk<'_>) -> Step {
    w.boolean("last-block")?;
    w.u16("block-number")?;
    w.prefixed("raw-data", Said::hex).map(drop)
}

fn access_error(w: &mut Walk<'_>) -> Step {
    w.code("data-access-error", |code| {
        dlms::DataAccessResult::new(code).name()
    })
    .map(drop)
}
