//! What a meter says unasked: EventNotification and DataNotification (IEC 62056-5-3, 9.3.9 and 9.3.10).

use super::clock;
use super::data::data;
use super::service::{attribute, long_invoke};
use super::walk::{Said, Step, Walk};

pub(crate) fn walk(w: &mut Walk<'_>, tag: u8) -> Step {
    match tag {
        0x0f => {
            long_invoke(w)?;
            pushed_time(w)?;
            data(w, "notification-body")
        }
        0x10 => {
            long_invoke(w)?;
            time(w)
        }
        _ => {
            if w.present("time")? {
                time(w)?;
            }
            attribute(w)?;
            data(w, "attribute-value")
        }
    }
}

/// A date-time as an octet string; empty if the sender has none to say.
pub(crate) fn time(w: &mut Walk<'_>) -> Step {
    w.prefixed("date-time", |octets| {
        let said = clock::date_time(octets);
        let hex = hex::encode(octets);
        match (octets, said) {
            ([], _) => Said::new(hex, "none"),
            (_, Some(time)) => Said::new(hex, time.clone()).also("time", time),
            (_, None) => Said::hex(octets),
        }
    })
    .map(drop)
}

/// Some meters tag the date-time of a DataNotification as Data (`09 0C`); it has no tag in the standard.
fn pushed_time(w: &mut Walk<'_>) -> Step {
    let tagged = w.peek() == Some(0x09)
        && w.peek_at(1) == Some(0x0c)
        && w.ahead().get(2..14).and_then(clock::date_time).is_some();
    if tagged {
        w.mark("tag", 1, |_| {
            "octet-string: a tag that does not belong here".to_owned()
        })?;
        w.note("the date-time carries a Data tag (09), which the standard does not have there");
    } else if w.peek() == Some(0x19) && w.ahead().get(1..13).and_then(clock::date_time).is_some() {
        w.mark("tag", 1, |_| {
            "date-time: a tag that does not belong here".to_owned()
        })?;
        w.note("the date-time carries a Data tag (19), which the standard does not have there");
        return w
            .leaf("date-time", 12, |octets| {
                let time = clock::date_time(octets);
                Said::new(hex::encode(octets), time.clone().unwrap_or_default()).also("time", time)
            })
            .map(drop);
    }
    time(w)
}
