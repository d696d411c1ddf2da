//! Objects for tests: what they answer follows from what is asked, and what they execute is counted.

use std::collections::HashMap;

use dlms::{
    Access, AccessOutcome, Accessed, ActionResult, Attribute, Command, Data, DataAccessResult,
    Method, Obis, Request, Response,
};

/// How often each number was written or executed.
pub(crate) type Effects = HashMap<u32, usize>;

/// An attribute whose value is as long as its name says.
pub(crate) fn attribute(octets: u16) -> Attribute {
    let [high, low] = octets.to_be_bytes();
    Attribute {
        class_id: 1,
        name: Obis::new([1, 0, 96, high, low, 255]),
        index: 2,
    }
}

/// A method that returns as much as its name says; nothing for 0.
pub(crate) fn method(octets: u16) -> Method {
    let Attribute { name, .. } = attribute(octets);
    Method {
        class_id: 9,
        name,
        index: 1,
    }
}

/// The value of [`attribute`]; there is none above 60000.
pub(crate) fn value(name: Obis) -> Result<Data, DataAccessResult> {
    let [_, _, _, high, low, _] = name.bytes();
    match usize::from(u16::from_be_bytes([high, low])) {
        length @ ..=60_000 => Ok(Data::OctetString(vec![low; length])),
        _ => Err(DataAccessResult::OBJECT_UNDEFINED),
    }
}

/// A value that carries the number of its command, and some octets more.
pub(crate) fn parameter(number: u32, octets: usize) -> Data {
    Data::Structure(vec![
        Data::DoubleLongUnsigned(number),
        Data::OctetString(vec![0xA5; octets]),
    ])
}

fn execute(effects: &mut Effects, data: Option<&Data>) {
    if let Some(Data::Structure(fields)) = data
        && let Some(Data::DoubleLongUnsigned(number)) = fields.first()
    {
        *effects.entry(*number).or_default() += 1;
    }
}

/// What a method returns.
pub(crate) fn returned(name: Obis) -> Option<Result<Data, DataAccessResult>> {
    match value(name) {
        Ok(Data::OctetString(octets)) if octets.is_empty() => None,
        data => Some(data),
    }
}

/// The answer of the objects, and what it does to them.
pub(crate) fn respond(request: &Request, effects: &mut Effects) -> Response {
    let invoke = request.invoke();
    match request {
        Request::Get { attribute, .. } => match value(attribute.name) {
            Ok(data) => Response::GetData { invoke, data },
            Err(result) => Response::GetError { invoke, result },
        },
        Request::GetList { attributes, .. } => Response::GetList {
            invoke,
            results: attributes.iter().map(|(at, _)| value(at.name)).collect(),
        },
        Request::Set { value, .. } => {
            execute(effects, Some(value));
            let result = DataAccessResult::SUCCESS;
            Response::Set { invoke, result }
        }
        Request::SetList { values, .. } => {
            let write = |(_, _, value): &(_, _, Data)| {
                execute(effects, Some(value));
                DataAccessResult::SUCCESS
            };
            let results = values.iter().map(write).collect();
            Response::SetList { invoke, results }
        }
        Request::Action {
            method, parameter, ..
        } => {
            execute(effects, parameter.as_ref());
            Response::Action {
                invoke,
                result: ActionResult::SUCCESS,
                data: returned(method.name),
            }
        }
        Request::ActionList { methods, .. } => {
            let act = |(method, parameter): &(Method, Option<Data>)| {
                execute(effects, parameter.as_ref());
                (ActionResult::SUCCESS, returned(method.name))
            };
            let outcomes = methods.iter().map(act).collect();
            Response::ActionList { invoke, outcomes }
        }
        Request::Access {
            invoke, accesses, ..
        } => Response::Access {
            invoke: *invoke,
            time: None,
            specifications: None,
            results: accesses.iter().map(|one| access(one, effects)).collect(),
        },
        block => panic!("a block was asked: {block:?}"),
    }
}

fn access(one: &Access, effects: &mut Effects) -> Accessed {
    match one {
        Access::Get { attribute, .. } => match value(attribute.name) {
            Ok(data) => Accessed {
                outcome: AccessOutcome::Get(DataAccessResult::SUCCESS),
                data,
            },
            Err(result) => Accessed {
                outcome: AccessOutcome::Get(result),
                data: Data::Null,
            },
        },
        Access::Set { value, .. } => {
            execute(effects, Some(value));
            Accessed {
                outcome: AccessOutcome::Set(DataAccessResult::SUCCESS),
                data: Data::Null,
            }
        }
        Access::Action { parameter, .. } => {
            execute(effects, parameter.as_ref());
            Accessed {
                outcome: AccessOutcome::Action(ActionResult::SUCCESS),
                data: Data::Null,
            }
        }
    }
}

/// What the objects answer to a command, whatever way it took.
pub(crate) fn expected(command: &Command) -> Response {
    let request = command.clone().with(dlms::InvokeId::new(0));
    respond(&request, &mut Effects::new())
}

/// The numbers that a command carries.
pub(crate) fn numbers(command: &Command) -> Vec<u32> {
    let mut effects = Effects::new();
    respond(&command.clone().with(dlms::InvokeId::new(0)), &mut effects);
    effects.into_keys().collect()
}

/// Whether two responses are the same but for their invoke ids.
pub(crate) fn same(left: &Response, right: &Response) -> bool {
    let bare = |response: &Response| {
        let id = dlms::InvokeId::new(0);
        match response.clone().with(id) {
            Response::Access {
                time,
                specifications,
                results,
                ..
            } => Response::Access {
                invoke: dlms::LongInvokeId::new(0),
                time,
                specifications,
                results,
            },
            other => other,
        }
    };
    bare(left) == bare(right)
}
