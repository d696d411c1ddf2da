//! `MeterAccessService` from the outside: the procedure's own verbs.

use dlms::Data;
use latchkey_proto::{
    audit::v1::{CommandService, EntryKind, Purpose},
    reset::v1::{
        AttributeName, ConnectMeterRequest, GetObjectRequest, GetObjectsRequest,
        InvokeMethodRequest, ReadProfileRequest, Verdict,
    },
};
use tonic::Code;

use crate::{bed::Bed, meter::Lists};

fn id() -> String {
    kit::context::new_id()
}

#[tokio::test]
async fn connect_proves_an_association() {
    let bed = Bed::new().await;
    let request = ConnectMeterRequest {
        request_id: id(),
        meter_id: "m-1".to_owned(),
        reason: String::new(),
    };
    let response = bed
        .access()
        .connect_meter(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.server_system_title, b"LKM00001");
    let office = bed.auditor.office();
    let asked = office.asked.first().expect("a plea");
    assert_eq!(
        (asked.purpose(), asked.commands.len(), asked.reason.as_str()),
        (Purpose::Connect, 0, "connect")
    );
}

#[tokio::test]
async fn an_object_is_read_by_its_name_alone() {
    let bed = Bed::new().await;
    let request = GetObjectRequest {
        request_id: id(),
        meter_id: "m-1".to_owned(),
        class_id: 0,
        logical_name: "0.0.96.3.10.255".to_owned(),
        attribute: 2,
        reason: String::new(),
    };
    let response = bed
        .access()
        .get_object(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((response.result, response.class_id), (0, 70));
    assert_eq!(Data::decode(&response.data), Ok(Data::Boolean(true)));
    bed.meter.world().silent = true;
    let silent = GetObjectRequest {
        request_id: id(),
        ..request
    };
    let error = bed.access().get_object(silent).await.unwrap_err();
    assert_eq!(
        (error.code(), kit::status::reason(&error).as_deref()),
        (Code::Unavailable, Some("METER_UNREACHABLE"))
    );
}

#[tokio::test]
async fn several_objects_are_one_question_where_the_meter_takes_lists() {
    let bed = Bed::new().await;
    let name = |logical_name: &str, attribute| AttributeName {
        class_id: 0,
        logical_name: logical_name.to_owned(),
        attribute,
    };
    for (lists, questions) in [(Lists::Answered, 1), (Lists::NotGranted, 3)] {
        {
            let mut world = bed.meter.world();
            (world.lists, world.questions) = (lists, 0);
        }
        let pleas = bed.auditor.office().asked.len();
        let request = GetObjectsRequest {
            request_id: id(),
            meter_id: "m-1".to_owned(),
            attributes: vec![
                name("0.0.96.3.10.255", 2),
                name("0.0.96.3.10.255", 9),
                name("0.0.42.0.0.255", 2),
            ],
            reason: String::new(),
        };
        let read = bed
            .access()
            .get_objects(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(read.one_request, lists == Lists::Answered);
        let results: Vec<_> = read
            .values
            .iter()
            .map(|value| (value.class_id, value.result, value.data.len()))
            .collect();
        assert_eq!(results, [(70, 0, 2), (70, 4, 0), (1, 0, 15)]);
        assert_eq!(bed.meter.world().questions, questions, "{lists:?}");
        assert_eq!(bed.auditor.office().asked.len(), pleas + 1, "one permit");
    }
}

#[tokio::test]
async fn a_list_that_is_not_answered_is_not_guessed() {
    let bed = Bed::new().await;
    bed.meter.world().lists = Lists::Choked;
    let attribute = AttributeName {
        logical_name: "0.0.42.0.0.255".to_owned(),
        attribute: 2,
        ..AttributeName::default()
    };
    let request = GetObjectsRequest {
        request_id: id(),
        meter_id: "m-1".to_owned(),
        attributes: vec![attribute; 2],
        reason: String::new(),
    };
    let error = bed.access().get_objects(request).await.unwrap_err();
    assert_eq!(
        (error.code(), kit::status::reason(&error).as_deref()),
        (Code::Unavailable, Some("METER_NO_ANSWER"))
    );
}

#[tokio::test]
async fn a_malformed_name_is_refused_and_recorded() {
    let bed = Bed::new().await;
    let request = GetObjectRequest {
        request_id: id(),
        meter_id: "m-1".to_owned(),
        logical_name: "banana".to_owned(),
        attribute: 2,
        ..GetObjectRequest::default()
    };
    let error = bed.access().get_object(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(bed.auditor.office().kinds(), [EntryKind::Denial]);
}

#[tokio::test]
async fn the_newest_profile_entries_come_without_values() {
    let bed = Bed::new().await;
    let request = ReadProfileRequest {
        request_id: id(),
        meter_id: "m-1".to_owned(),
        logical_name: "1.0.99.1.0.255".to_owned(),
        entries: 3,
        reason: String::new(),
    };
    let response = bed
        .access()
        .read_profile(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((response.result, response.entries_in_use), (0, 96));
    let rows = Data::decode(&response.data).unwrap();
    let rows = rows.as_elements().unwrap();
    assert_eq!(rows.len(), 3);
    assert!(
        rows.iter()
            .all(|row| row.as_elements().is_some_and(|columns| columns.len() == 2))
    );
}

fn invoke(class_id: u32, name: &str, method: i32, parameter: Vec<u8>) -> InvokeMethodRequest {
    InvokeMethodRequest {
        request_id: id(),
        meter_id: "m-1".to_owned(),
        class_id,
        logical_name: name.to_owned(),
        method,
        parameter,
        reason: String::new(),
    }
}

#[tokio::test]
async fn a_tier_of_the_profile_becomes_a_reset() {
    let bed = Bed::new().await;
    let request = invoke(0, "0.0.10.1.0.255", 1, vec![0x12, 0, 3]);
    let reset = bed
        .access()
        .invoke_method(request.clone())
        .await
        .unwrap()
        .into_inner()
        .reset
        .unwrap();
    let again = bed
        .access()
        .invoke_method(request)
        .await
        .unwrap()
        .into_inner()
        .reset
        .unwrap();
    assert_eq!(reset.reset_id, again.reset_id);
    assert_eq!(
        bed.finished(&reset.reset_id).await.verdict(),
        Verdict::Succeeded
    );
}

#[tokio::test]
async fn anything_else_is_put_to_policy_and_never_sent() {
    let bed = Bed::new().await;
    // remote_reconnect, the global reset, and a script that is no tier
    for request in [
        invoke(0, "0.0.96.3.10.255", 2, vec![0x0f, 0]),
        invoke(0, "0.0.10.0.0.255", 1, vec![0x12, 0, 1]),
        invoke(9, "0.0.10.1.0.255", 1, vec![0x12, 0, 9]),
    ] {
        let error = bed.access().invoke_method(request).await.unwrap_err();
        assert_eq!(
            (error.code(), kit::status::reason(&error).as_deref()),
            (Code::PermissionDenied, Some("POLICY_DENIED"))
        );
    }
    let office = bed.auditor.office();
    assert_eq!(office.kinds(), [EntryKind::Denial; 3]);
    assert!(office.asked.iter().all(|plea| {
        plea.validate_only
            && plea
                .commands
                .iter()
                .all(|command| command.service() == CommandService::Action)
    }));
    assert!(bed.meter.world().acts.is_empty());
}
