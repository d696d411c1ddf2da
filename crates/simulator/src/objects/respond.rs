//! From requests to responses: every service, by the same three ways through [`Device::get`], [`Device::set`] and
//! [`Device::act`].

use dlms::{
    Access, AccessOutcome, Accessed, ActionOutcome, ActionResult, Attribute, Data,
    DataAccessResult, Exception, Method, Request, Response, Selection, cosem::DateTime,
};

use crate::{device::Device, objects::View, rtc};

/// The answer of the COSEM objects. The association fills in the invoke id, joins blocks and makes them.
pub(crate) fn respond(device: &mut Device, view: View, request: &Request, now: u64) -> Response {
    let invoke = request.invoke();
    match request {
        Request::Get {
            attribute,
            selection,
            ..
        } => match read(device, view, (attribute, selection.as_ref()), now) {
            Ok(data) => Response::GetData { invoke, data },
            Err(result) => Response::GetError { invoke, result },
        },
        Request::GetList { attributes, .. } => {
            let results = attributes
                .iter()
                .map(|(attribute, selection)| {
                    read(device, view, (attribute, selection.as_ref()), now)
                })
                .collect();
            Response::GetList { invoke, results }
        }
        Request::Set {
            attribute,
            selection,
            value,
            ..
        } => {
            let result = write(device, view, (attribute, selection.as_ref()), value, now);
            Response::Set { invoke, result }
        }
        Request::SetList { values, .. } => {
            let results = values
                .iter()
                .map(|(attribute, selection, value)| {
                    write(device, view, (attribute, selection.as_ref()), value, now)
                })
                .collect();
            Response::SetList { invoke, results }
        }
        Request::Action {
            method, parameter, ..
        } => {
            let (result, data) = act(device, view, (method, parameter.as_ref()), now);
            Response::Action {
                invoke,
                result,
                data,
            }
        }
        Request::ActionList { methods, .. } => {
            let outcomes = methods
                .iter()
                .map(|(method, parameter)| act(device, view, (method, parameter.as_ref()), now))
                .collect();
            Response::ActionList { invoke, outcomes }
        }
        Request::Access { .. } => access(device, view, request, now),
        // the association serves these itself
        Request::GetNext { .. }
        | Request::SetFirstBlock { .. }
        | Request::SetBlock { .. }
        | Request::SetListFirstBlock { .. }
        | Request::ActionNext { .. }
        | Request::ActionFirstBlock { .. }
        | Request::ActionListFirstBlock { .. }
        | Request::ActionBlock { .. } => Response::Exception(Exception::NOT_SUPPORTED),
    }
}

/// Every method that a request executes.
pub(crate) fn methods(request: &Request) -> Vec<&Method> {
    match request {
        Request::Action { method, .. } => vec![method],
        Request::ActionList { methods, .. } => methods.iter().map(|(method, _)| method).collect(),
        Request::Access { accesses, .. } => accesses
            .iter()
            .filter_map(|access| match access {
                Access::Action { method, .. } => Some(method),
                Access::Get { .. } | Access::Set { .. } => None,
            })
            .collect(),
        Request::Get { .. }
        | Request::GetNext { .. }
        | Request::GetList { .. }
        | Request::Set { .. }
        | Request::SetFirstBlock { .. }
        | Request::SetBlock { .. }
        | Request::SetList { .. }
        | Request::SetListFirstBlock { .. }
        | Request::ActionNext { .. }
        | Request::ActionFirstBlock { .. }
        | Request::ActionListFirstBlock { .. }
        | Request::ActionBlock { .. } => Vec::new(),
    }
}

/// ACCESS: in order, up to the first that fails if the client wants that.
fn access(device: &mut Device, view: View, request: &Request, now: u64) -> Response {
    let Request::Access {
        invoke, accesses, ..
    } = request
    else {
        return Response::Exception(Exception::NOT_SUPPORTED);
    };
    let mut results = Vec::with_capacity(accesses.len());
    for access in accesses {
        let accessed = one(device, view, access, now);
        let failed = !accessed.outcome.is_success();
        results.push(accessed);
        if failed && invoke.breaks_on_error() {
            break;
        }
    }
    let DateTime(time) = rtc::date_time(device.rtc.shows(now));
    Response::Access {
        invoke: *invoke,
        time: Some(time),
        specifications: invoke
            .is_self_descriptive()
            .then(|| accesses.iter().map(Access::specification).collect()),
        results,
    }
}

fn one(device: &mut Device, view: View, access: &Access, now: u64) -> Accessed {
    match access {
        Access::Get {
            attribute,
            selection,
        } => {
            let value = read(device, view, (attribute, selection.as_ref()), now);
            let result = value.as_ref().err().copied();
            Accessed {
                outcome: AccessOutcome::Get(result.unwrap_or(DataAccessResult::SUCCESS)),
                data: value.unwrap_or(Data::Null),
            }
        }
        Access::Set {
            attribute,
            selection,
            value,
        } => Accessed {
            outcome: AccessOutcome::Set(write(
                device,
                view,
                (attribute, selection.as_ref()),
                value,
                now,
            )),
            data: Data::Null,
        },
        Access::Action { method, parameter } => {
            let (result, data) = act(device, view, (method, parameter.as_ref()), now);
            Accessed {
                outcome: AccessOutcome::Action(result),
                data: data.and_then(Result::ok).unwrap_or(Data::Null),
            }
        }
    }
}

fn read(
    device: &mut Device,
    view: View,
    (attribute, selection): (&Attribute, Option<&Selection>),
    now: u64,
) -> Result<Data, DataAccessResult> {
    device
        .get(view, attribute, selection, now)
        .map_err(DataAccessResult::new)
}

fn write(
    device: &mut Device,
    view: View,
    (attribute, selection): (&Attribute, Option<&Selection>),
    value: &Data,
    now: u64,
) -> DataAccessResult {
    match selection {
        None => DataAccessResult::new(device.set(view, attribute, value, now)),
        Some(_) => DataAccessResult::TYPE_UNMATCHED,
    }
}

fn act(
    device: &mut Device,
    view: View,
    (method, parameter): (&Method, Option<&Data>),
    now: u64,
) -> ActionOutcome {
    match device.act(view, method, parameter, now) {
        Ok(data) => (ActionResult::SUCCESS, data.map(Ok)),
        Err(result) => (ActionResult::new(result), None),
    }
}
