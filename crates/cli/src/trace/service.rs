//! The services of logical name referencing: GET, SET, ACTION, ACCESS (IEC 62056-5-3, 9.3).

use serde_json::json;

use super::data::{data, secret};
use super::fault::{Fault, Kind};
use super::notification::time;
use super::talk::Context;
use super::walk::{Said, Step, Walk, first, signed, unsigned};
use super::{apdu, objects, token};

pub(crate) fn walk(w: &mut Walk<'_>, c: &mut Context<'_>, tag: u8) -> Step {
    if matches!(tag, 0xd9 | 0xda) {
        return access(w, tag);
    }
    let at = w.at();
    let names = choices(tag);
    let octets = w.leaf("choice", 1, |octets| {
        let choice = first(octets);
        let name = usize::from(choice)
            .checked_sub(1)
            .and_then(|at| names.get(at));
        Said::new(
            *name.unwrap_or(&"not in the standard"),
            format!("{} [{choice}]", name.unwrap_or(&"not in the standard")),
        )
    })?;
    let choice = first(octets);
    if choice == 0 || usize::from(choice) > names.len() {
        return Err(w.fail(Fault::new(
            Kind::UnknownTag,
            at,
            format!("a choice of {}", apdu::name(tag).unwrap_or_default()),
            format!("{choice:02x}"),
        )));
    }
    invoke(w)?;
    match tag {
        0xc0 => get_request(w, choice),
        0xc4 => get_response(w, c, choice),
        0xc1 => set_request(w, c, choice),
        0xc5 => set_response(w, choice),
        0xc3 => action_request(w, c, choice),
        _ => action_response(w, c, choice),
    }
}

const fn choices(tag: u8) -> &'static [&'static str] {
    match tag {
        0xc0 => &[
            "get-request-normal",
            "get-request-next",
            "get-request-with-list",
        ],
        0xc4 => &[
            "get-response-normal",
            "get-response-with-datablock",
            "get-response-with-list",
        ],
        0xc1 => &[
            "set-request-normal",
            "set-request-with-first-datablock",
            "set-request-with-datablock",
            "set-request-with-list",
            "set-request-with-list-and-first-datablock",
        ],
        0xc5 => &[
            "set-response-normal",
            "set-response-datablock",
            "set-response-last-datablock",
            "set-response-last-datablock-with-list",
            "set-response-with-list",
        ],
        0xc3 => &[
            "action-request-normal",
            "action-request-next-pblock",
            "action-request-with-list",
            "action-request-with-first-pblock",
            "action-request-with-list-and-first-pblock",
            "action-request-with-pblock",
        ],
        _ => &[
            "action-response-normal",
            "action-response-with-pblock",
            "action-response-with-list",
            "action-response-next-pblock",
        ],
    }
}

fn invoke(w: &mut Walk<'_>) -> Step {
    w.leaf("invoke-id-and-priority", 1, |octets| {
        let octet = first(octets);
        let (id, confirmed, high) = (octet & 0x0f, octet & 0x40 != 0, octet & 0x80 != 0);
        let class = if confirmed {
            "confirmed"
        } else {
            "unconfirmed"
        };
        let priority = if high { "high" } else { "normal" };
        Said::new(
            json!({ "invoke_id": id, "service_class": class, "priority": priority }),
            format!("invoke-id {id}, {class}, priority {priority}"),
        )
    })
    .map(drop)
}

pub(crate) fn long_invoke(w: &mut Walk<'_>) -> Step {
    w.leaf("long-invoke-id-and-priority", 4, |octets| {
        let value = unsigned(octets);
        let bit = |number: u32| value >> number & 1 != 0;
        let class = if bit(30) { "confirmed" } else { "unconfirmed" };
        let priority = if bit(31) { "high" } else { "normal" };
        let id = value & 0xff_ffff;
        Said::new(
            json!({
                "long_invoke_id": id,
                "service_class": class,
                "priority": priority,
                "self_descriptive": bit(28),
                "processing_option": if bit(29) { "break on error" } else { "continue on error" },
            }),
            format!("long-invoke-id {id}, {class}, priority {priority}"),
        )
    })
    .map(drop)
}

/// Class, logical name and index of what is accessed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) class_id: u64,
    pub(crate) obis: [u8; 6],
    pub(crate) index: i64,
}

impl Target {
    /// Pass 3 of HLS.
    fn is_hls_reply(self) -> bool {
        self.class_id == 15 && self.index == 1
    }

    fn holds_secret(self, method: bool) -> bool {
        (self.class_id, self.index, method) == (15, 7, false)
            || (self.class_id, self.index, method) == (15, 2, true)
    }
}

/// A Cosem-Attribute-Descriptor.
pub(crate) fn attribute(w: &mut Walk<'_>) -> Step<Target> {
    descriptor(
        w,
        "cosem-attribute-descriptor",
        "attribute-id",
        objects::attribute,
    )
}

fn method(w: &mut Walk<'_>) -> Step<Target> {
    descriptor(w, "cosem-method-descriptor", "method-id", objects::method)
}

fn descriptor(
    w: &mut Walk<'_>,
    name: &'static str,
    index_name: &'static str,
    index_words: fn(u64, i64) -> &'static str,
) -> Step<Target> {
    let mut target = Target::default();
    w.group(name, |w| {
        w.leaf("class-id", 2, |octets| {
            target.class_id = unsigned(octets);
            let name = objects::class(target.class_id);
            Said::new(target.class_id, format!("{} ({name})", target.class_id)).also("class", name)
        })?;
        w.leaf("instance-id", 6, |octets| {
            target.obis = octets.try_into().unwrap_or_default();
            Said::new(
                dlms::Obis::new(target.obis).to_string(),
                objects::named(target.obis),
            )
            .also("object", objects::name(target.obis))
        })?;
        w.leaf(index_name, 1, |octets| {
            target.index = signed(octets);
            let name = index_words(target.class_id, target.index);
            Said::new(target.index, format!("{} ({name})", target.index)).also("name", name)
        })?;
        let words = index_words(target.class_id, target.index);
        let text = format!("{} {words}", objects::named(target.obis));
        w.say(serde_json::Value::Null, text);
        Ok(target)
    })
}

fn selection(w: &mut Walk<'_>) -> Step {
    if !w.present("access-selection")? {
        return Ok(());
    }
    selected(w)
}

fn selected(w: &mut Walk<'_>) -> Step {
    w.group("access-selection", |w| {
        w.code("access-selector", |selector| match selector {
            1 => "range-descriptor",
            2 => "entry-descriptor",
            _ => "selector of the class",
        })?;
        data(w, "access-parameters")
    })
}

/// A list with its count.
fn list<T>(
    w: &mut Walk<'_>,
    name: &'static str,
    mut element: impl FnMut(&mut Walk<'_>) -> Step<T>,
) -> Step<Vec<T>> {
    let count = w.count("count", name)?;
    w.list(name, |w| (0..count).map(|_| element(w)).collect())
}

fn attributes(w: &mut Walk<'_>) -> Step {
    list(w, "attribute-descriptor-list", |w| {
        w.group("element", |w| {
            attribute(w)?;
            selection(w)
        })
    })
    .map(drop)
}

fn get_request(w: &mut Walk<'_>, choice: u8) -> Step {
    match choice {
        1 => {
            attribute(w)?;
            selection(w)
        }
        2 => w.u32("block-number").map(drop),
        _ => attributes(w),
    }
}

fn get_response(w: &mut Walk<'_>, c: &mut Context<'_>, choice: u8) -> Step {
    match choice {
        1 => get_data_result(w, "result"),
        2 => {
            let (last, number) = block_head(w)?;
            w.group("result", |w| {
                if !result_choice(w, "raw-data")? {
                    return access_result(w, "data-access-result");
                }
                let raw = w.prefixed("raw-data", Said::hex)?;
                if let Some(whole) = c.talk.block("get-response", number, last, raw, w) {
                    let value = apdu::first_of(c, "joined value", &whole, &[value, results]);
                    w.member("joined_value", value);
                }
                Ok(())
            })
        }
        _ => list(w, "result", |w| get_data_result(w, "element")).map(drop),
    }
}

fn value(w: &mut Walk<'_>) -> Step {
    data(w, "value")
}

fn results(w: &mut Walk<'_>) -> Step {
    list(w, "result", |w| get_data_result(w, "element")).map(drop)
}

/// Get-Data-Result: data, or why there is none.
fn get_data_result(w: &mut Walk<'_>, name: &'static str) -> Step {
    w.group(name, |w| {
        if result_choice(w, "data")? {
            data(w, "data")
        } else {
            access_result(w, "data-access-result")
        }
    })
}

/// Whether the first of two choices is taken.
fn result_choice(w: &mut Walk<'_>, yes: &'static str) -> Step<bool> {
    let at = w.at();
    let octets = w.mark("choice", 1, |octets| match first(octets) {
        0 => format!("{yes} [0]"),
        choice => format!("data-access-result [{choice}]"),
    })?;
    match first(octets) {
        0 => Ok(true),
        1 => Ok(false),
        found => Err(w.fail(Fault::new(
            Kind::UnknownTag,
            at,
            format!("00, {yes}, or 01, a data-access-result"),
            format!("{found:02x}"),
        ))),
    }
}

fn access_result(w: &mut Walk<'_>, name: &'static str) -> Step {
    w.code(name, |code| dlms::DataAccessResult::new(code).name())
        .map(drop)
}

/// last-block and block-number.
fn block_head(w: &mut Walk<'_>) -> Step<(bool, u32)> {
    let last = w.boolean("last-block")?;
    let number = w.u32("block-number")?;
    Ok((last, number))
}

/// A DataBlock-SA.
fn block(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    name: &'static str,
    service: &'static str,
    walks: &[fn(&mut Walk<'_>) -> Step],
) -> Step {
    w.group(name, |w| {
        let (last, number) = block_head(w)?;
        let raw = w.prefixed("raw-data", Said::hex)?;
        if let Some(whole) = c.talk.block(service, number, last, raw, w) {
            let value = apdu::first_of(c, "joined value", &whole, walks);
            w.member("joined_value", value);
        }
        Ok(())
    })
}

fn values(w: &mut Walk<'_>) -> Step {
    list(w, "value-list", |w| data(w, "element")).map(drop)
}

fn set_request(w: &mut Walk<'_>, c: &mut Context<'_>, choice: u8) -> Step {
    match choice {
        1 => {
            let target = attribute(w)?;
            selection(w)?;
            if target.holds_secret(false) {
                secret(w, "value")
            } else {
                data(w, "value")
            }
        }
        2 => {
            attribute(w)?;
            selection(w)?;
            block(w, c, "datablock", "set-request", &[value, values])
        }
        3 => block(w, c, "datablock", "set-request", &[value, values]),
        4 => {
            attributes(w)?;
            values(w)
        }
        _ => {
            attributes(w)?;
            block(w, c, "datablock", "set-request", &[values, value])
        }
    }
}

fn set_response(w: &mut Walk<'_>, choice: u8) -> Step {
    let results = |w: &mut Walk<'_>| list(w, "result", |w| access_result(w, "element")).map(drop);
    match choice {
        1 => access_result(w, "result"),
        2 => w.u32("block-number").map(drop),
        3 => {
            access_result(w, "result")?;
            w.u32("block-number").map(drop)
        }
        4 => {
            results(w)?;
            w.u32("block-number").map(drop)
        }
        _ => results(w),
    }
}

fn action_request(w: &mut Walk<'_>, c: &mut Context<'_>, choice: u8) -> Step {
    match choice {
        1 => {
            let target = method(w)?;
            c.talk.hls_reply = target.is_hls_reply();
            if !w.present("method-invocation-parameters")? {
                return Ok(());
            }
            if target.is_hls_reply() {
                token::parameter(w, c, "method-invocation-parameters", true)
            } else if target.holds_secret(true) {
                secret(w, "method-invocation-parameters")
            } else {
                data(w, "method-invocation-parameters")
            }
        }
        2 => w.u32("block-number").map(drop),
        3 => {
            methods(w)?;
            parameters(w)
        }
        4 => {
            method(w)?;
            block(w, c, "pblock", "action-request", &[value, parameters])
        }
        5 => {
            methods(w)?;
            block(w, c, "pblock", "action-request", &[parameters, value])
        }
        _ => block(w, c, "pblock", "action-request", &[value, parameters]),
    }
}

fn methods(w: &mut Walk<'_>) -> Step {
    list(w, "cosem-method-descriptor-list", method).map(drop)
}

fn parameters(w: &mut Walk<'_>) -> Step {
    list(w, "method-invocation-parameters", |w| data(w, "element")).map(drop)
}

fn action_response(w: &mut Walk<'_>, c: &mut Context<'_>, choice: u8) -> Step {
    match choice {
        1 => w.group("single-response", |w| {
            action_result(w)?;
            if !w.present("return-parameters")? {
                return Ok(());
            }
            w.group("return-parameters", |w| {
                if !result_choice(w, "data")? {
                    return access_result(w, "data-access-result");
                }
                if std::mem::take(&mut c.talk.hls_reply) {
                    token::parameter(w, c, "data", false)
                } else {
                    data(w, "data")
                }
            })
        }),
        2 => block(
            w,
            c,
            "pblock",
            "action-response",
            &[value, |w| get_data_result(w, "value"), action_results],
        ),
        3 => action_results(w),
        _ => w.u32("block-number").map(drop),
    }
}

fn action_results(w: &mut Walk<'_>) -> Step {
    list(w, "list-of-responses", |w| {
        w.group("element", |w| {
            action_result(w)?;
            if w.present("return-parameters")? {
                get_data_result(w, "return-parameters")?;
            }
            Ok(())
        })
    })
    .map(drop)
}

fn action_result(w: &mut Walk<'_>) -> Step {
    w.code("result", |code| dlms::ActionResult::new(code).name())
        .map(drop)
}

fn access(w: &mut Walk<'_>, tag: u8) -> Step {
    long_invoke(w)?;
    time(w)?;
    if tag == 0xd9 {
        return w.group("access-request-body", |w| {
            access_specification(w)?;
            list(w, "access-request-list-of-data", |w| data(w, "element")).map(drop)
        });
    }
    w.group("access-response-body", |w| {
        if w.present("access-request-specification")? {
            access_specification(w)?;
        }
        list(w, "access-response-list-of-data", |w| data(w, "element"))?;
        list(w, "access-response-specification", |w| {
            w.group("element", |w| {
                let choice = access_choice(w, 3)?;
                match choice {
                    3 => action_result(w),
                    _ => access_result(w, "result"),
                }
            })
        })
        .map(drop)
    })
}

fn access_specification(w: &mut Walk<'_>) -> Step {
    list(w, "access-request-specification", |w| {
        w.group("element", |w| match access_choice(w, 5)? {
            3 => method(w).map(drop),
            4 | 5 => {
                attribute(w)?;
                selected(w)
            }
            _ => attribute(w).map(drop),
        })
    })
    .map(drop)
}

fn access_choice(w: &mut Walk<'_>, last: u8) -> Step<u8> {
    const NAMES: [&str; 5] = [
        "get",
        "set",
        "action",
        "get-with-selection",
        "set-with-selection",
    ];
    let at = w.at();
    let octets = w.mark("choice", 1, |octets| format!("[{}]", first(octets)))?;
    let choice = first(octets);
    if choice == 0 || choice > last {
        return Err(w.fail(Fault::new(
            Kind::UnknownTag,
            at,
            format!("a choice of 01 to {last:02x}"),
            format!("{choice:02x}"),
        )));
    }
    let name = usize::from(choice)
        .checked_sub(1)
        .and_then(|at| NAMES.get(at))
        .unwrap_or(&"");
    w.say(*name, *name);
    Ok(choice)
}
