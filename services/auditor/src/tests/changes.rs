//! Records and the allowlist.

use latchkey_proto::audit::v1::AllowlistSide;

use super::*;
use crate::auditor::Change;

fn sam() -> PeerName {
    peer("spiffe://latchkey.test/operator/sam")
}

fn add(network: &str) -> Change<'static> {
    Change {
        side: AllowlistSide::Meter,
        network: network.parse().unwrap(),
        reason: Some("a meter"),
    }
}

fn remove(network: &str) -> Change<'static> {
    Change {
        reason: None,
        ..add(network)
    }
}

#[tokio::test]
async fn a_record_is_set_by_the_auditor_where_the_auditor_sets_it() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let lying = RecordRequest {
        request_id: id(1),
        entry: Some(Entry {
            kind: EntryKind::Outcome.into(),
            schema_version: 99,
            reporter: "spiffe://latchkey.test/latchkey/custody".to_owned(),
            append_time: Some(prost_types::Timestamp::default()),
            ..Entry::default()
        }),
    };
    let at = running.api.auditor.record(&reset(), lying).await.unwrap();
    let entry = running.entries().await.remove(usize::try_from(at).unwrap());
    assert_eq!(entry.schema_version, 1);
    assert_eq!(entry.reporter, reset().to_string());
    assert!(entry.append_time.unwrap().seconds > 1_600_000_000);
    running.stop().await;
}

#[tokio::test]
async fn nobody_reports_what_another_saw() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let report = |name: &str, kind: EntryKind, number| {
        let request = RecordRequest {
            request_id: id(number),
            entry: Some(Entry {
                kind: kind.into(),
                ..Entry::default()
            }),
        };
        let auditor = &running.api.auditor;
        let reporter = peer(&format!("spiffe://latchkey.test/{name}"));
        async move { auditor.record(&reporter, request).await }
    };
    for (number, (name, kind)) in (1..).zip([
        ("latchkey/gateway", EntryKind::Verdict),
        ("latchkey/association", EntryKind::KeyUse),
        ("latchkey/custody", EntryKind::Outcome),
        ("latchkey/reset", EntryKind::Allowlist),
        ("operator/alice", EntryKind::Start),
    ]) {
        let refused = report(name, kind, number).await;
        assert!(
            matches!(refused, Err(Error::ReportForbidden { .. })),
            "{name}"
        );
        assert!(
            running
                .of_kind(kind)
                .await
                .iter()
                .all(|e| e.reporter == "spiffe://latchkey.test/latchkey/auditor")
        );
    }
    let denials = running.of_kind(EntryKind::Denial).await;
    assert_eq!(denials.len(), 5);
    assert!(denials[0].principal.ends_with("/gateway") && denials[0].detail.contains("VERDICT"));
    // what is its own is not burdened by that
    report("latchkey/gateway", EntryKind::Drop, 1)
        .await
        .unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_record_again_is_the_first_receipt_and_another_is_refused() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let first = running.record(&id(1), "done").await.unwrap();
    assert_eq!(running.record(&id(1), "done").await.unwrap(), first);
    let refused = running.record(&id(1), "undone").await;
    assert!(matches!(refused, Err(Error::RequestReused(_))));
    assert_eq!(running.of_kind(EntryKind::Outcome).await.len(), 1);
    // a permit's request id is another thing
    running
        .api
        .auditor
        .authorise(&reset(), &cold_reset(1))
        .await
        .unwrap();
    running.stop().await;
}

#[tokio::test]
async fn the_trail_begins_with_start_and_policy() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let entries = running.entries().await;
    assert_eq!(entries[0].kind(), EntryKind::Start);
    assert_eq!(entries[1].kind(), EntryKind::Policy);
    let own_name = "spiffe://latchkey.test/latchkey/auditor";
    assert!(entries.iter().all(|entry| entry.reporter == own_name));
    assert!(entries[1].detail.starts_with("sha256:"));
    running.stop().await;
}

#[tokio::test]
async fn networks_come_and_go_with_an_entry_each() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let auditor = &running.api.auditor;
    let (seeded, entries) = auditor.store.allowlist().await.unwrap();
    assert_eq!(entries.len(), 1);
    let network = "127.10.0.1/32";
    let added = auditor
        .change_allowlist(&sam(), add(network))
        .await
        .unwrap();
    assert_eq!(added, seeded + 1);
    // again: nothing changes, and nothing is written
    let again = auditor
        .change_allowlist(&sam(), add(network))
        .await
        .unwrap();
    assert_eq!(again, added);
    let (_, entries) = auditor.store.allowlist().await.unwrap();
    let entry = entries.iter().find(|e| e.network == network).unwrap();
    assert_eq!(entry.added_by, sam().to_string());
    assert!(entry.add_time.unwrap().seconds > 1_600_000_000);
    let removed = auditor
        .change_allowlist(&sam(), remove(network))
        .await
        .unwrap();
    assert_eq!(removed, added + 1);
    let missing = auditor.change_allowlist(&sam(), remove(network)).await;
    assert!(matches!(missing, Err(Error::NetworkUnknown(_))));
    assert_eq!(running.of_kind(EntryKind::Allowlist).await.len(), 3);
    running.stop().await;
}

#[tokio::test]
async fn whoever_may_not_change_the_list_does_not_and_leaves_a_denial() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let auditor = &running.api.auditor;
    let before = auditor.store.allowlist().await.unwrap();
    let alice = peer("spiffe://latchkey.test/operator/alice");
    let denied = auditor.change_allowlist(&alice, add("127.10.0.1/32")).await;
    assert!(matches!(denied, Err(Error::Denied { .. })));
    let ines = peer("spiffe://latchkey.test/operator/ines");
    let source = Change {
        side: AllowlistSide::Source,
        ..add("127.10.0.1/32")
    };
    let denied = auditor.change_allowlist(&ines, source).await;
    assert!(matches!(denied, Err(Error::Denied { .. })));
    assert_eq!(auditor.store.allowlist().await.unwrap(), before);
    assert_eq!(running.of_kind(EntryKind::Denial).await.len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_seed_that_somebody_removed_does_not_come_back() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let seed = Change {
        side: AllowlistSide::Source,
        ..remove("127.0.0.1/32")
    };
    let auditor = &running.api.auditor;
    auditor.change_allowlist(&sam(), seed).await.unwrap();
    running.stop().await;
    let running = Running::start(&dir).await;
    let (_, entries) = running.api.auditor.store.allowlist().await.unwrap();
    assert!(entries.is_empty());
    running.stop().await;
}
