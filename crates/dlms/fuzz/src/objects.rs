//! Commands that can be told apart, and the objects that execute them.

use dlms::{
    Access, AccessOutcome, Accessed, ActionResult, Attribute, Command, Data, DataAccessResult,
    Exception, InvokeId, Method, Obis, Request, Response, Selection,
};

use super::input::Input;

/// What no attribute names: the number of a command that was executed.
pub type Id = u32;

const NAME: Obis = Obis::new([0, 0, 10, 1, 0, 255]);

fn attribute(input: &mut Input<'_>) -> Attribute {
    Attribute {
        class_id: u16::from(input.octet()),
        name: NAME,
        index: 2,
    }
}

const fn method() -> Method {
    Method {
        class_id: 9,
        name: NAME,
        index: 1,
    }
}

/// A value that carries an id, and as many octets as asked for.
fn tagged(id: &mut Id, octets: usize) -> Data {
    *id += 1;
    Data::Structure(vec![
        Data::DoubleLongUnsigned(*id),
        Data::OctetString(vec![0x42; octets]),
    ])
}

/// A command with ids of its own: `id` is the last one given.
pub fn command(input: &mut Input<'_>, id: &mut Id) -> Command {
    let kind = input.octet();
    let octets = 4 * usize::from(input.octet());
    let set = |input: &mut Input<'_>, id: &mut Id| (attribute(input), None, tagged(id, octets));
    let access = |input: &mut Input<'_>, id: &mut Id| match input.octet() % 3 {
        0 => Access::Get {
            attribute: attribute(input),
            selection: None,
        },
        1 => Access::Set {
            attribute: attribute(input),
            selection: None,
            value: tagged(id, 8),
        },
        _ => Access::Action {
            method: method(),
            parameter: Some(tagged(id, 8)),
        },
    };
    let count = 1 + kind / 64;
    match kind % 8 {
        0 => Command::Get {
            attribute: attribute(input),
            selection: None,
        },
        1 => Command::Get {
            attribute: attribute(input),
            selection: Some(Selection::Entry {
                from_entry: 1,
                to_entry: 1,
                from_column: 1,
                to_column: 0,
            }),
        },
        2 => {
            let (attribute, selection, value) = set(input, id);
            Command::Set {
                attribute,
                selection,
                value,
            }
        }
        3 => Command::Action {
            method: method(),
            parameter: Some(tagged(id, octets)),
        },
        4 => Command::GetList((0..count).map(|_| (attribute(input), None)).collect()),
        5 => Command::SetList((0..count).map(|_| set(input, id)).collect()),
        6 => {
            let one = |id: &mut Id| (method(), Some(tagged(id, octets)));
            Command::ActionList((0..count).map(|_| one(id)).collect())
        }
        _ => Command::Access((0..count).map(|_| access(input, id)).collect()),
    }
}

/// What is executed by a request: the ids in it.
pub fn ids(request: &Request) -> Vec<Id> {
    let values: Vec<&Data> = match request {
        Request::Set { value, .. } => vec![value],
        Request::SetList { values, .. } => values.iter().map(|(_, _, value)| value).collect(),
        Request::Action { parameter, .. } => parameter.iter().collect(),
        Request::ActionList { methods, .. } => {
            let parameters = methods.iter().map(|(_, parameter)| parameter.as_ref());
            parameters.flatten().collect()
        }
        Request::Access { accesses, .. } => accesses.iter().filter_map(value).collect(),
        _ => vec![],
    };
    let first = |value: &Data| value.as_elements()?.first()?.as_u64();
    let ids = values.into_iter().filter_map(first);
    ids.filter_map(|id| u32::try_from(id).ok()).collect()
}

fn value(access: &Access) -> Option<&Data> {
    match access {
        Access::Get { .. } => None,
        Access::Set { value, .. } => Some(value),
        Access::Action { parameter, .. } => parameter.as_ref(),
    }
}

/// The answer of objects that have every attribute, of a length that its class says.
pub fn serve(request: &Request) -> Response {
    let invoke = InvokeId::new(0);
    let read = |attribute: &Attribute| match attribute.class_id % 16 {
        0 => Err(DataAccessResult::OBJECT_UNDEFINED),
        length => Ok(Data::OctetString(vec![0x24; 60 * usize::from(length)])),
    };
    let done = (ActionResult::SUCCESS, Some(Ok(Data::Unsigned(1))));
    match request {
        Request::Get { attribute, .. } => match read(attribute) {
            Ok(data) => Response::GetData { invoke, data },
            Err(result) => Response::GetError { invoke, result },
        },
        Request::GetList { attributes, .. } => Response::GetList {
            invoke,
            results: attributes.iter().map(|(one, _)| read(one)).collect(),
        },
        Request::Set { .. } => Response::Set {
            invoke,
            result: DataAccessResult::SUCCESS,
        },
        Request::SetList { values, .. } => Response::SetList {
            invoke,
            results: vec![DataAccessResult::SUCCESS; values.len()],
        },
        Request::Action { .. } => Response::Action {
            invoke,
            result: done.0,
            data: done.1,
        },
        Request::ActionList { methods, .. } => Response::ActionList {
            invoke,
            outcomes: vec![done; methods.len()],
        },
        Request::Access {
            invoke, accesses, ..
        } => Response::Access {
            invoke: *invoke,
            time: None,
            specifications: None,
            results: accesses.iter().map(|one| accessed(one, read)).collect(),
        },
        _ => Response::Exception(Exception::NOT_SUPPORTED),
    }
}

fn accessed(
    access: &Access,
    read: impl Fn(&Attribute) -> Result<Data, DataAccessResult>,
) -> Accessed {
    let (outcome, data) = match access {
        Access::Get { attribute, .. } => match read(attribute) {
            Ok(data) => (AccessOutcome::Get(DataAccessResult::SUCCESS), data),
            Err(result) => (AccessOutcome::Get(result), Data::Null),
        },
        Access::Set { .. } => (AccessOutcome::Set(DataAccessResult::SUCCESS), Data::Null),
        Access::Action { .. } => (AccessOutcome::Action(ActionResult::SUCCESS), Data::Null),
    };
    Accessed { outcome, data }
}
