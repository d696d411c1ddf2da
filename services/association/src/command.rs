//! Commands out of messages.

use dlms::{Access, Attribute, Command, Conformance, Data, Method, Obis, Selection};
use latchkey_proto::{
    association::v1::ListForm,
    audit::v1::{self as pb, CommandService},
};

use crate::error::Error;

/// Commands of one request.
const LIST_MAX: usize = 16;
const PARAMETER_MAX: usize = 2048;
const SELECTION_MAX: usize = 512;

/// What a request does to a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It reads.
    Read,
    /// It changes or executes something.
    Act,
}

/// A request of one command, or of several.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// What is sent.
    pub command: Command,
    /// What it does.
    pub kind: Kind,
    /// How many commands it is.
    pub count: usize,
    /// The services the meter must have granted for this form.
    pub needs: Conformance,
}

/// Reads and checks a command.
///
/// # Errors
/// [`Error::Invalid`], with all that is wrong.
pub fn parse(command: Option<&pb::Command>) -> Result<Asked, Error> {
    let command = command.ok_or_else(|| Error::field("command", "is required"))?;
    let command = parse_at("command", command).map_err(Error::Invalid)?;
    Ok(Asked {
        kind: kind(&command),
        command: single(command),
        count: 1,
        needs: Conformance::NONE,
    })
}

/// Reads and checks several commands that go in one request.
///
/// # Errors
/// [`Error::Invalid`], with all that is wrong.
pub fn parse_list(commands: &[pb::Command], form: i32) -> Result<Asked, Error> {
    let accesses = parse_all(commands, LIST_MAX)?;
    let kind = if accesses.iter().all(|access| kind(access) == Kind::Read) {
        Kind::Read
    } else {
        Kind::Act
    };
    let count = accesses.len();
    let (command, needs) = match ListForm::try_from(form) {
        Ok(ListForm::Access) => (Command::Access(accesses), Conformance::ACCESS),
        Ok(ListForm::Unspecified | ListForm::WithList) => {
            let listed = with_list(accesses).ok_or_else(|| {
                Error::field(
                    "commands",
                    "must all be of one service with LIST_FORM_WITH_LIST",
                )
            })?;
            (listed, Conformance::MULTIPLE_REFERENCES)
        }
        Err(_) => return Err(Error::field("form", "is unknown")),
    };
    Ok(Asked {
        command,
        kind,
        count,
        needs,
    })
}

/// Reads and checks 1..=max commands, each as what it accesses.
///
/// # Errors
/// [`Error::Invalid`], with all that is wrong with any of them.
pub fn parse_all(commands: &[pb::Command], max: usize) -> Result<Vec<Access>, Error> {
    if commands.is_empty() || commands.len() > max {
        return Err(Error::field("commands", format!("must be 1..{max}")));
    }
    let mut wrong = Vec::new();
    let mut accesses = Vec::new();
    for (n, command) in commands.iter().enumerate() {
        match parse_at(&format!("commands[{n}]"), command) {
            Ok(access) => accesses.push(access),
            Err(faults) => wrong.extend(faults),
        }
    }
    if wrong.is_empty() {
        Ok(accesses)
    } else {
        Err(Error::Invalid(wrong))
    }
}

/// The request of one command.
#[must_use]
pub fn single(access: Access) -> Command {
    match access {
        Access::Get {
            attribute,
            selection,
        } => Command::Get {
            attribute,
            selection,
        },
        Access::Set {
            attribute,
            selection,
            value,
        } => Command::Set {
            attribute,
            selection,
            value,
        },
        Access::Action { method, parameter } => Command::Action { method, parameter },
    }
}

const fn kind(access: &Access) -> Kind {
    match access {
        Access::Get { .. } => Kind::Read,
        Access::Set { .. } | Access::Action { .. } => Kind::Act,
    }
}

/// One request of one service, if all are of one.
fn with_list(accesses: Vec<Access>) -> Option<Command> {
    let (mut gets, mut sets, mut actions) = (Vec::new(), Vec::new(), Vec::new());
    for access in accesses {
        match access {
            Access::Get {
                attribute,
                selection,
            } => gets.push((attribute, selection)),
            Access::Set {
                attribute,
                selection,
                value,
            } => sets.push((attribute, selection, value)),
            Access::Action { method, parameter } => actions.push((method, parameter)),
        }
    }
    match (gets.is_empty(), sets.is_empty(), actions.is_empty()) {
        (false, true, true) => Some(Command::GetList(gets)),
        (true, false, true) => Some(Command::SetList(sets)),
        (true, true, false) => Some(Command::ActionList(actions)),
        _ => None,
    }
}

fn parse_at(field: &str, command: &pb::Command) -> Result<Access, Vec<(String, String)>> {
    let mut faults = Faults {
        field,
        found: Vec::new(),
    };
    let class_id = faults.checked("class_id", class_id(command.class_id));
    let name = faults.checked("logical_name", logical_name(&command.logical_name));
    let index = faults.checked("index", index(command.index));
    let parameter = faults.checked("parameter", parameter(&command.parameter));
    let selection = faults.checked("selection", selection(&command.selection));
    if let Err((wrong, why)) = shape(command) {
        faults.checked::<()>(wrong, Err(why.to_owned()));
    }
    let (Some(class_id), Some(name), Some(index), Some(parameter), Some(selection), true) = (
        class_id,
        name,
        index,
        parameter,
        selection,
        faults.found.is_empty(),
    ) else {
        return Err(faults.found);
    };
    let attribute = Attribute {
        class_id,
        name,
        index,
    };
    match (command.service(), parameter) {
        (CommandService::Get, _) => Ok(Access::Get {
            attribute,
            selection,
        }),
        (CommandService::Set, Some(value)) => Ok(Access::Set {
            attribute,
            selection,
            value,
        }),
        (CommandService::Action, parameter) => Ok(Access::Action {
            method: Method {
                class_id,
                name,
                index,
            },
            parameter,
        }),
        (CommandService::Set | CommandService::Unspecified, _) => {
            Err(vec![(format!("{field}.service"), "is required".to_owned())])
        }
    }
}

/// The faults of one command.
struct Faults<'a> {
    field: &'a str,
    found: Vec<(String, String)>,
}

impl Faults<'_> {
    fn checked<T>(&mut self, field: &str, value: Result<T, String>) -> Option<T> {
        value
            .map_err(|why| self.found.push((format!("{}.{field}", self.field), why)))
            .ok()
    }
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
fn shape(command: &pb::Command) -> Result<(), (&'static str, &'static str)> {
    match command.service() {
        CommandService::Unspecified => Err(("service", "is required")),
        CommandService::Get if !command.parameter.is_empty() => {
            Err(("parameter", "must be empty for a GET"))
        }
        CommandService::Set if command.parameter.is_empty() => {
            Err(("parameter", "is required for a SET"))
        }
        CommandService::Action if !command.selection.is_empty() => {
            Err(("selection", "must be empty for an ACTION"))
        }
        CommandService::Get | CommandService::Set | CommandService::Action => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(service: CommandService) -> pb::Command {
        pb::Command {
            service: service.into(),
            class_id: 70,
            logical_name: "0.0.96.3.10.255".to_owned(),
            index: 2,
            ..pb::Command::default()
        }
    }

    fn set() -> pb::Command {
        pb::Command {
            parameter: vec![0x0f, 0],
            ..command(CommandService::Set)
        }
    }

    fn fields<T: std::fmt::Debug>(result: Result<T, Error>) -> Vec<String> {
        match result {
            Err(Error::Invalid(wrong)) => wrong.into_iter().map(|(field, _)| field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn good_commands() {
        let get = parse(Some(&command(CommandService::Get))).unwrap();
        assert_eq!((get.kind, get.count), (Kind::Read, 1));
        let entry = Selection::Entry {
            from_entry: 1,
            to_entry: 1,
            from_column: 1,
            to_column: 0,
        };
        let one = pb::Command {
            selection: entry.encode(),
            ..command(CommandService::Get)
        };
        assert!(matches!(
            parse(Some(&one)).unwrap().command,
            Command::Get { selection: Some(found), .. } if found == entry
        ));
        let act = pb::Command {
            parameter: vec![0x12, 0, 3],
            ..command(CommandService::Action)
        };
        let act = parse(Some(&act)).unwrap();
        assert!(matches!(
            act.command,
            Command::Action {
                parameter: Some(Data::LongUnsigned(3)),
                ..
            }
        ));
        assert_eq!(act.kind, Kind::Act);
        assert!(matches!(
            parse(Some(&set())).unwrap().command,
            Command::Set {
                value: Data::Integer(0),
                ..
            }
        ));
    }

    #[test]
    fn bad_commands_say_why() {
        let bad = |change: fn(&mut pb::Command)| {
            let mut bad = command(CommandService::Get);
            change(&mut bad);
            fields(parse(Some(&bad)))
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
            bad(|c| c.service = CommandService::Set.into()),
            ["command.parameter"]
        );
        assert!(parse(None).is_err());
    }

    #[test]
    fn lists_are_of_one_service_or_accesses() {
        let (get, act) = (
            command(CommandService::Get),
            command(CommandService::Action),
        );
        let list = |commands: &[&pb::Command], form: ListForm| {
            let commands: Vec<_> = commands.iter().map(|command| (*command).clone()).collect();
            parse_list(&commands, form.into())
        };
        let gets = list(&[&get, &get], ListForm::Unspecified).unwrap();
        assert_eq!(
            (gets.kind, gets.count, gets.needs),
            (Kind::Read, 2, Conformance::MULTIPLE_REFERENCES)
        );
        assert!(matches!(gets.command, Command::GetList(listed) if listed.len() == 2));
        let sets = list(&[&set(), &set()], ListForm::WithList).unwrap();
        assert!(matches!(sets.command, Command::SetList(_)) && sets.kind == Kind::Act);
        let actions = list(&[&act], ListForm::WithList).unwrap();
        assert!(matches!(actions.command, Command::ActionList(_)));
        assert_eq!(
            fields(list(&[&get, &act], ListForm::WithList)),
            ["commands"]
        );
        let mixed = list(&[&get, &set(), &act], ListForm::Access).unwrap();
        assert_eq!(
            (mixed.kind, mixed.count, mixed.needs),
            (Kind::Act, 3, Conformance::ACCESS)
        );
        let reads = list(&[&get, &get], ListForm::Access).unwrap();
        assert_eq!(reads.kind, Kind::Read, "an ACCESS that only reads");
    }

    #[test]
    fn bad_lists_say_which_command_is_bad() {
        let good = command(CommandService::Get);
        let bad = pb::Command {
            class_id: 0,
            index: 0,
            ..good.clone()
        };
        let form = ListForm::Access.into();
        assert_eq!(
            fields(parse_list(&[good.clone(), bad], form)),
            ["commands[1].class_id", "commands[1].index"]
        );
        assert_eq!(fields(parse_list(&[], form)), ["commands"]);
        assert_eq!(
            fields(parse_list(&vec![good.clone(); 17], form)),
            ["commands"]
        );
        assert_eq!(fields(parse_list(&[good], 9)), ["form"]);
    }
}
