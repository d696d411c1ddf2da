//! Arbitrary requests, responses and notifications of every kind.

use dlms::{
    Access, AccessOutcome, AccessSpecification, Accessed, ActionOutcome, ActionResult, Attribute,
    Confirmation, Data, DataAccessResult, Exception, GeneralBlock, LongInvokeId, Method,
    Notification, Request, Response, Selection,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::values::{attribute, data, invoke, octets, selection, service_error};

fn method() -> impl Strategy<Value = Method> {
    attribute().prop_map(|at| Method {
        class_id: at.class_id,
        name: at.name,
        index: at.index,
    })
}

fn long_invoke() -> impl Strategy<Value = LongInvokeId> {
    any::<u32>().prop_map(LongInvokeId::from_bits)
}

fn time() -> impl Strategy<Value = Option<[u8; 12]>> {
    option::of(any::<[u8; 12]>())
}

fn selected() -> impl Strategy<Value = (Attribute, Option<Selection>)> {
    (attribute(), option::of(selection()))
}

/// Where null-data and none are one on the wire, none is what is read.
fn parameter() -> impl Strategy<Value = Option<Data>> {
    option::of(data()).prop_map(|data| data.filter(|data| *data != Data::Null))
}

fn block() -> impl Strategy<Value = (bool, u32, Vec<u8>)> {
    (any::<bool>(), any::<u32>(), octets())
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        selected().prop_map(|(attribute, selection)| Access::Get {
            attribute,
            selection
        }),
        (selected(), data()).prop_map(|((attribute, selection), value)| Access::Set {
            attribute,
            selection,
            value
        }),
        (method(), parameter())
            .prop_map(|(method, parameter)| Access::Action { method, parameter }),
    ]
}

fn get_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (invoke(), selected()).prop_map(|(invoke, (attribute, selection))| Request::Get {
            invoke,
            attribute,
            selection
        }),
        (invoke(), any::<u32>()).prop_map(|(invoke, block)| Request::GetNext { invoke, block }),
        (invoke(), vec(selected(), 0..4))
            .prop_map(|(invoke, attributes)| Request::GetList { invoke, attributes }),
        (long_invoke(), time(), vec(access(), 0..5)).prop_map(|(invoke, time, accesses)| {
            Request::Access {
                invoke,
                time,
                accesses,
            }
        }),
    ]
}

fn set_request() -> impl Strategy<Value = Request> {
    let value = (selected(), data())
        .prop_map(|((attribute, selection), value)| (attribute, selection, value));
    prop_oneof![
        (invoke(), selected(), data()).prop_map(|(invoke, (attribute, selection), value)| {
            Request::Set {
                invoke,
                attribute,
                selection,
                value,
            }
        }),
        (invoke(), selected(), block()).prop_map(
            |(invoke, (attribute, selection), (last, block, octets))| Request::SetFirstBlock {
                invoke,
                attribute,
                selection,
                last,
                block,
                octets
            }
        ),
        (invoke(), block()).prop_map(|(invoke, (last, block, octets))| Request::SetBlock {
            invoke,
            last,
            block,
            octets
        }),
        (invoke(), vec(value, 0..4))
            .prop_map(|(invoke, values)| Request::SetList { invoke, values }),
        (invoke(), vec(selected(), 0..4), block()).prop_map(
            |(invoke, attributes, (last, block, octets))| Request::SetListFirstBlock {
                invoke,
                attributes,
                last,
                block,
                octets
            }
        ),
    ]
}

fn action_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (invoke(), method(), option::of(data())).prop_map(|(invoke, method, parameter)| {
            Request::Action {
                invoke,
                method,
                parameter,
            }
        }),
        (invoke(), any::<u32>()).prop_map(|(invoke, block)| Request::ActionNext { invoke, block }),
        (invoke(), vec((method(), parameter()), 0..4))
            .prop_map(|(invoke, methods)| Request::ActionList { invoke, methods }),
        (invoke(), method(), block()).prop_map(|(invoke, method, (last, block, octets))| {
            Request::ActionFirstBlock {
                invoke,
                method,
                last,
                block,
                octets,
            }
        }),
        (invoke(), vec(method(), 0..4), block()).prop_map(
            |(invoke, methods, (last, block, octets))| Request::ActionListFirstBlock {
                invoke,
                methods,
                last,
                block,
                octets
            }
        ),
        (invoke(), block()).prop_map(|(invoke, (last, block, octets))| Request::ActionBlock {
            invoke,
            last,
            block,
            octets
        }),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![get_request(), set_request(), action_request()]
}

fn result() -> impl Strategy<Value = DataAccessResult> {
    any::<u8>().prop_map(DataAccessResult::new)
}

fn action_result() -> impl Strategy<Value = ActionResult> {
    any::<u8>().prop_map(ActionResult::new)
}

fn read() -> impl Strategy<Value = Result<Data, DataAccessResult>> {
    prop_oneof![data().prop_map(Ok), result().prop_map(Err)]
}

fn outcome() -> impl Strategy<Value = ActionOutcome> {
    (action_result(), option::of(read()))
}

fn get_response() -> impl Strategy<Value = Response> {
    let payload = prop_oneof![octets().prop_map(Ok), result().prop_map(Err)];
    prop_oneof![
        (invoke(), data()).prop_map(|(invoke, data)| Response::GetData { invoke, data }),
        (invoke(), result()).prop_map(|(invoke, result)| Response::GetError { invoke, result }),
        (invoke(), any::<bool>(), any::<u32>(), payload).prop_map(
            |(invoke, last, block, payload)| Response::GetBlock {
                invoke,
                last,
                block,
                payload
            }
        ),
        (invoke(), vec(read(), 0..4))
            .prop_map(|(invoke, results)| Response::GetList { invoke, results }),
    ]
}

fn set_response() -> impl Strategy<Value = Response> {
    prop_oneof![
        (invoke(), result()).prop_map(|(invoke, result)| Response::Set { invoke, result }),
        (invoke(), any::<u32>())
            .prop_map(|(invoke, block)| Response::SetBlockAck { invoke, block }),
        (invoke(), result(), any::<u32>()).prop_map(|(invoke, result, block)| {
            Response::SetLastBlock {
                invoke,
                result,
                block,
            }
        }),
        (invoke(), vec(result(), 0..4), any::<u32>()).prop_map(|(invoke, results, block)| {
            Response::SetLastBlockList {
                invoke,
                results,
                block,
            }
        }),
        (invoke(), vec(result(), 0..4))
            .prop_map(|(invoke, results)| Response::SetList { invoke, results }),
    ]
}

fn action_response() -> impl Strategy<Value = Response> {
    prop_oneof![
        (invoke(), outcome()).prop_map(|(invoke, (result, data))| Response::Action {
            invoke,
            result,
            data
        }),
        (invoke(), block()).prop_map(|(invoke, (last, block, octets))| Response::ActionBlock {
            invoke,
            last,
            block,
            octets
        }),
        (invoke(), vec(outcome(), 0..4))
            .prop_map(|(invoke, outcomes)| Response::ActionList { invoke, outcomes }),
        (invoke(), any::<u32>())
            .prop_map(|(invoke, block)| Response::ActionNextBlock { invoke, block }),
    ]
}

fn access_response() -> impl Strategy<Value = Response> {
    let outcome = prop_oneof![
        result().prop_map(AccessOutcome::Get),
        result().prop_map(AccessOutcome::Set),
        action_result().prop_map(AccessOutcome::Action),
    ];
    let accessed = (outcome, data()).prop_map(|(outcome, data)| Accessed { outcome, data });
    let specifications = vec(access().prop_map(|access| access.specification()), 0..4);
    let specifications = option::of(specifications.prop_map(Vec::<AccessSpecification>::from));
    (long_invoke(), time(), specifications, vec(accessed, 0..4)).prop_map(
        |(invoke, time, specifications, results)| Response::Access {
            invoke,
            time,
            specifications,
            results,
        },
    )
}

fn refusal() -> impl Strategy<Value = Response> {
    prop_oneof![
        any::<(u8, u32)>().prop_map(|(state, counter)| {
            Response::Exception(Exception {
                state,
                ..Exception::invocation_counter(counter)
            })
        }),
        (any::<u8>(), 0_u8..8).prop_map(|(state, service)| Response::Exception(Exception {
            state,
            service,
            counter: None
        })),
        service_error().prop_map(Response::ConfirmedServiceError),
    ]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        4 => get_response(),
        4 => set_response(),
        4 => action_response(),
        2 => access_response(),
        1 => refusal(),
    ]
}

pub(crate) fn notification() -> impl Strategy<Value = Notification> {
    prop_oneof![
        (time(), attribute(), data()).prop_map(|(time, attribute, value)| Notification::Event {
            time,
            attribute,
            value
        }),
        (long_invoke(), time(), data()).prop_map(|(invoke, time, body)| Notification::Data {
            invoke,
            time,
            body
        }),
    ]
}

pub(crate) fn confirmation() -> impl Strategy<Value = Confirmation> {
    (long_invoke(), time()).prop_map(|(invoke, time)| Confirmation { invoke, time })
}

pub(crate) fn general_block() -> impl Strategy<Value = GeneralBlock> {
    let head = any::<(bool, bool, u16, u16)>();
    (head, 0_u8..64, octets()).prop_map(|((last, streaming, block, ack), window, data)| {
        GeneralBlock {
            last,
            streaming,
            window,
            block,
            ack,
            data,
        }
    })
}
