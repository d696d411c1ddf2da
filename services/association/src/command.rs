//! Commands out of messages, answers into messages.

use dlms::{Attribute, Command, Data, Method, Obis, Response, Selection};
use latchkey_proto::{
    association::v1::{Delivery, InvokeResponse},
    audit::v1 as pb,
};

use crate::error::Error;

const PARAMETER_MAX: usize = 2048;
const SELECTION_MAX: usize = 512;
const CAUSE_MAX: usize = 256;

/// What a command does to a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It reads.
    Read,
    /// It changes or executes something.
    Act,
}

impl Kind {
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Get { .. } | Command::GetList(_) => Self::Read,
            Command::Set { .. }
            | Command::Action { .. }
            | Command::SetList(_)
            | Command::ActionList(_)
            | Command::Access(_) => Self::Act,
        }
    }
}

/// Reads and checks a command.
///
/// # Errors
/// [`Error::Invalid`], with all that is wrong.
pub fn parse(command: Option<&pb::Command>) -> Result<Command, Error> {
    let command = command.ok_or_else(|| Error::field("command", "is required"))?;
    let mut wrong = Vec::new();
    let class_id = checked(&mut wrong, "class_id", class_id(command.class_id));
    let name = checked(
        &mut wrong,
        "logical_name",
        logical_name(&command.logical_name),
    );
    let index = checked(&mut wrong, "index", index(command.index));
    let parameter = checked(&mut wrong, "parameter", parameter(&command.parameter));
    let selection = checked(&mut wrong, "selection", selection(&command.selection));
    if let Err(why) = shape(command) {
        wrong.push(why);
    }
    let (Some(class_id), Some(name), Some(index), Some(parameter), Some(selection), true) = (
        class_id,
        name,
        index,
        parameter,
        selection,
        wrong.is_empty(),
    ) else {
        return Err(Error::Invalid(wrong));
    };
    let attribute = Attribute {
        class_id,
        name,
        index,
    };
    match (command.service(), parameter) {
        (pb::CommandService::Get, _) => Ok(Command::Get {
            attribute,
            selection,
        }),
        (pb::CommandService::Set, Some(value)) => Ok(Command::Set {
            attribute,
            selection,
            value,
        }),
        (pb::CommandService::Action, parameter) => Ok(Command::Action {
            method: Method {
                class_id,
                name,
                index,
            },
            parameter,
        }),
        (pb::CommandService::Set | pb::CommandService::Unspecified, _) => {
            Err(Error::field("command.service", "is required"))
        }
    }
}

fn checked<T>(
    wrong: &mut Vec<(String, String)>,
    field: &str,
    value: Result<T, String>,
) -> Option<T> {
    value
        .map_err(|why| wrong.push((format!("command.{field}"), why)))
        .ok()
}

fn class_id(class_id: u32) -> Result<u16, String> {
    u16::try_from(class_id)
        .ok()
        .filter(|id| *id > 0)
        .ok_or_else(|| "must be 1..65535".to_owned())
}

fn logical_name(name: &str) -> Result<Obis, String> {
    name.parse()
        .map_err(|_| "must be six dotted numbers, such as 0.0.96.3.10.255".to_owned())
}

fn index(index: i32) -> Result<i8, String> {
    i8::try_from(index)
        .ok()
        .filter(|index| *index > 0)
        .ok_or_else(|| "must be 1..127".to_owned())
}

fn parameter(octets: &[u8]) -> Result<Option<Data>, String> {
    match octets.len() {
        0 => Ok(None),
        1..=PARAMETER_MAX => Data::decode(octets)
            .map(Some)
            .map_err(|error| format!("is no encoded Data: {error}")),
        _ => Err(format!("has more than {PARAMETER_MAX} octets")),
    }
}

fn selection(octets: &[u8]) -> Result<Option<Selection>, String> {
    match octets.len() {
        0 => Ok(None),
        1..=SELECTION_MAX => Selection::decode(octets)
            .map(Some)
            .map_err(|error| format!("is no encoded selective access: {error}")),
        _ => Err(format!("has more than {SELECTION_MAX} octets")),
    }
}

/// Which service takes what.
fn shape(command: &pb::Command) -> Result<(), (String, String)> {
    let wrong = |field: &str, why: &str| Err((format!("command.{field}"), why.to_owned()));
    match command.service() {
        pb::CommandService::Unspecified => wrong("service", "is required"),
        pb::CommandService::Get if !command.parameter.is_empty() => {
            wrong("parameter", "must be empty for a GET")
        }
        pb::CommandService::Set if command.parameter.is_empty() => {
            wrong("parameter", "is required for a SET")
        }
        pb::CommandService::Action if !command.selection.is_empty() => {
            wrong("selection", "must be empty for an ACTION")
        }
        pb::CommandService::Get | pb::CommandService::Set | pb::CommandService::Action => Ok(()),
    }
}

/// An answer that passed every check.
#[must_use]
pub fn render(response: &Response, invocation_counter: u32) -> InvokeResponse {
    let (result, data) = match response {
        Response::GetData { data, .. } => (0, data.encode()),
        Response::GetError { result, .. } | Response::Set { result, .. } => {
            (result.code(), Vec::new())
        }
        Response::Action { result, data, .. } => {
            let data = data.as_ref().and_then(|data| data.as_ref().ok());
            (result.code(), data.map(Data::encode).unwrap_or_default())
        }
        // The association hands out whole values only, and an exception proves nothing: it is not authenticated.
        Response::GetBlock { .. }
        | Response::SetBlockAck { .. }
        | Response::SetLastBlock { .. }
        | Response::SetLastBlockList { .. }
        | Response::ActionBlock { .. }
        | Response::ActionNextBlock { .. } => {
            return unknown("a block instead of a value", invocation_counter);
        }
        Response::GetList { .. }
        | Response::SetList { .. }
        | Response::ActionList { .. }
        | Response::Access { .. } => {
            return unknown("an answer for several objects", invocation_counter);
        }
        Response::ConfirmedServiceError(_) => {
            return unknown("a confirmed-service-error", invocation_counter);
        }
        Response::Exception(exception) => {
            let cause = format!(
                "exception-response state {} service {} ({})",
                exception.state,
                exception.service,
                exception.name()
            );
            return unknown(&cause, invocation_counter);
        }
    };
    InvokeResponse {
        delivery: Delivery::Answered.into(),
        result: result.into(),
        data,
        invocation_counter,
        cause: String::new(),
        notifications: Vec::new(),
    }
}

/// The command may have reached the meter, or not.
#[must_use]
pub fn unknown(cause: &str, invocation_counter: u32) -> InvokeResponse {
    InvokeResponse {
        delivery: Delivery::Unknown.into(),
        cause: cause.chars().take(CAUSE_MAX).collect(),
        invocation_counter,
        ..InvokeResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use dlms::{ActionResult, DataAccessResult, Exception, InvokeId};

    use super::*;

    fn command(service: pb::CommandService) -> pb::Command {
        pb::Command {
            service: service.into(),
            class_id: 70,
            logical_name: "0.0.96.3.10.255".to_owned(),
            index: 2,
            ..pb::Command::default()
        }
    }

    #[test]
    fn good_commands() {
        let get = parse(Some(&command(pb::CommandService::Get))).unwrap();
        assert_eq!(Kind::of(&get), Kind::Read);
        let entry = Selection::Entry {
            from_entry: 1,
            to_entry: 1,
            from_column: 1,
            to_column: 0,
        };
        let one = pb::Command {
            selection: entry.encode(),
            ..command(pb::CommandService::Get)
        };
        assert!(
            matches!(parse(Some(&one)), Ok(Command::Get { selection: Some(found), .. }) if found == entry)
        );
        let act = pb::Command {
            parameter: vec![0x12, 0, 3],
            ..command(pb::CommandService::Action)
        };
        let act = parse(Some(&act)).unwrap();
        assert!(matches!(
            &act,
            Command::Action {
                parameter: Some(Data::LongUnsigned(3)),
                ..
            }
        ));
        assert_eq!(Kind::of(&act), Kind::Act);
        let set = pb::Command {
            parameter: vec![0x0f, 0],
            ..command(pb::CommandService::Set)
        };
        assert!(matches!(
            parse(Some(&set)),
            Ok(Command::Set {
                value: Data::Integer(0),
                ..
            })
        ));
    }

    #[test]
    fn bad_commands_say_why() {
        let bad = |change: fn(&mut pb::Command)| {
            let mut bad = command(pb::CommandService::Get);
            change(&mut bad);
            match parse(Some(&bad)) {
                Err(Error::Invalid(wrong)) => wrong
                    .into_iter()
                    .map(|(field, _)| field)
                    .collect::<Vec<_>>(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(bad(|c| c.class_id = 0), ["command.class_id"]);
        assert_eq!(bad(|c| c.class_id = 65_536), ["command.class_id"]);
        assert_eq!(
            bad(|c| c.logical_name = "0.0.96.3.10".to_owned()),
            ["command.logical_name"]
        );
        assert_eq!(bad(|c| c.index = 0), ["command.index"]);
        assert_eq!(bad(|c| c.index = 128), ["command.index"]);
        assert_eq!(bad(|c| c.parameter = vec![0x0f, 0]), ["command.parameter"]);
        assert_eq!(
            bad(|c| c.parameter = vec![0x0f]),
            ["command.parameter", "command.parameter"]
        );
        assert_eq!(bad(|c| c.selection = vec![9; 513]), ["command.selection"]);
        assert_eq!(bad(|c| c.service = 0), ["command.service"]);
        assert_eq!(
            bad(|c| c.service = pb::CommandService::Set.into()),
            ["command.parameter"]
        );
        assert!(parse(None).is_err());
    }

    #[test]
    fn answers() {
        let invoke = InvokeId::new(1);
        let got = render(
            &Response::GetData {
                invoke,
                data: Data::Boolean(true),
            },
            7,
        );
        assert_eq!(
            (got.delivery(), got.result, got.data, got.invocation_counter),
            (Delivery::Answered, 0, vec![3, 1], 7)
        );
        let refused = render(
            &Response::GetError {
                invoke,
                result: DataAccessResult::READ_WRITE_DENIED,
            },
            7,
        );
        assert_eq!(
            (refused.delivery(), refused.result),
            (Delivery::Answered, 3)
        );
        let done = render(
            &Response::Action {
                invoke,
                result: ActionResult::SUCCESS,
                data: None,
            },
            7,
        );
        assert_eq!(
            (done.delivery(), done.result, done.data),
            (Delivery::Answered, 0, vec![])
        );
        let exception = render(&Response::Exception(Exception::invocation_counter(9)), 7);
        assert_eq!(
            (exception.delivery(), exception.data),
            (Delivery::Unknown, vec![])
        );
        assert_eq!(
            exception.cause,
            "exception-response state 1 service 6 (invocation-counter-error)"
        );
        assert_eq!(unknown(&"é".repeat(300), 0).cause.chars().count(), 256);
    }
}
