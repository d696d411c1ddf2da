//! The whole auditor: mTLS at its edge, a SoftHSM token behind it.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod bed;

use std::path::Path;
use std::time::Duration;

use bed::{Bed, Running, until, with_token};
use kit::permit::PermitKey;
use latchkey_proto::audit::v1::{
    AddAllowlistEntryRequest, AllowlistEntry, AllowlistSide, AuthoriseRequest, AuthoriseResponse,
    Command, CommandService, Entry, EntryKind, ExportTrailRequest, GetAllowlistRequest,
    GetCheckpointRequest, GetInclusionProofRequest, GetPermitKeyRequest, ListEntriesRequest,
    Permit, Purpose, RecordRequest, Tier,
};
use tlog::{Checkpoint, Hash, VerifierKey, export, proof};
use tonic::{Code, Status};

const RESET: &str = "latchkey/reset";
const ALICE: &str = "spiffe://latchkey.test/operator/alice";

fn id(number: u32) -> String {
    format!("0190b6a0-0000-7000-8000-{number:012}")
}

fn cold_reset(number: u32) -> AuthoriseRequest {
    AuthoriseRequest {
        request_id: id(number),
        meter_id: "meter-0001".to_owned(),
        purpose: Purpose::Reset.into(),
        tier: Tier::Cold.into(),
        commands: vec![Command {
            service: CommandService::Action.into(),
            class_id: 1,
            logical_name: "0.0.96.1.2.255".to_owned(),
            index: 1,
            parameter: vec![0x0F, 0],
            selection: Vec::new(),
            max_uses: 1,
        }],
        on_behalf_of: ALICE.to_owned(),
        reason: "does not answer".to_owned(),
        ticket: String::new(),
        reset_id: id(number + 1000),
        max_associations: 8,
        lifetime_seconds: 600,
        validate_only: false,
    }
}

async fn authorise(
    running: &Running,
    request: AuthoriseRequest,
) -> Result<AuthoriseResponse, Status> {
    let answer = running.permits(RESET).authorise(request).await;
    answer.map(tonic::Response::into_inner)
}

/// Checks a permit as key custody does: with the public key alone.
async fn opened(running: &Running, response: &AuthoriseResponse) -> Permit {
    let mut permits = running.permits(RESET);
    let asked = permits.get_permit_key(GetPermitKeyRequest {}).await;
    let asked = asked.unwrap().into_inner();
    let key = PermitKey::new(&asked.public_key).unwrap();
    assert_eq!(key.key_id(), asked.key_id);
    let signed = response.permit.as_ref().unwrap();
    kit::permit::verify(signed, &key, kit::clock::now(), Duration::ZERO).unwrap()
}

async fn exported(running: &Running) -> Vec<u8> {
    let mut trail = running.trail(RESET);
    let asked = trail.export_trail(ExportTrailRequest {}).await;
    let mut stream = asked.unwrap().into_inner();
    let mut file = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        file.extend(piece.chunk);
    }
    file
}

fn ed25519(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    UnparsedPublicKey::new(&ED25519, key)
        .verify(message, signature)
        .is_ok()
}

fn reason(status: &Status) -> String {
    kit::status::reason(status).unwrap_or_else(|| panic!("no reason: {status:?}"))
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn permits_and_checkpoints_are_signed_in_the_token_and_verify_outside() {
    with_token(
        "permits_and_checkpoints_are_signed_in_the_token_and_verify_outside",
        |dir| run(signed_in_the_token(dir)),
    );
}

async fn signed_in_the_token(dir: &Path) {
    let bed = Bed::new(dir);
    let running = bed.start().await;
    let response = authorise(&running, cold_reset(1)).await.unwrap();
    let permit = opened(&running, &response).await;
    assert_eq!(permit.principal, ALICE);

    let mut trail = running.trail(RESET);
    let answer = trail.get_checkpoint(GetCheckpointRequest {}).await;
    let answer = answer.unwrap().into_inner();
    let key = VerifierKey::parse(&answer.verifier_key).unwrap();
    let checkpoint = Checkpoint::open(&answer.checkpoint, &key, ed25519).unwrap();
    assert!(checkpoint.size() > permit.leaf_index);

    let asked = GetInclusionProofRequest {
        leaf_index: permit.leaf_index,
        tree_size: checkpoint.size(),
    };
    let found = trail.get_inclusion_proof(asked).await.unwrap().into_inner();
    let hash = |octets: &Vec<u8>| Hash::try_from(octets.as_slice()).unwrap();
    let path: Vec<Hash> = found.hashes.iter().map(hash).collect();
    let leaf = hash(&found.leaf_hash);
    let (index, size, root) = (permit.leaf_index, checkpoint.size(), checkpoint.root());
    assert_eq!(
        proof::verify_inclusion(leaf, index, size, &path, root),
        Ok(())
    );

    let listed = trail.list_entries(ListEntriesRequest {
        reset_id: id(1001),
        ..ListEntriesRequest::default()
    });
    let listed = listed.await.unwrap().into_inner().entries;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].leaf_index, index);
    let intent = listed[0].entry.as_ref().unwrap();
    assert_eq!(
        (intent.kind(), &intent.permit_id),
        (EntryKind::Intent, &permit.permit_id)
    );

    let mut file = exported(&running).await;
    let summary = export::verify(&file, &key, ed25519).unwrap();
    assert!(summary.size >= checkpoint.size());
    let last = file.len() - 2;
    file[last] ^= 1;
    let failure = export::verify(&file, &key, ed25519).unwrap_err();
    assert_eq!(failure.what, export::What::Entry(summary.size - 1));
    running.stop().await;

    // the same token, the same database: the same permit, and a trail that goes on
    let running = bed.start().await;
    let again = authorise(&running, cold_reset(1)).await.unwrap();
    assert_eq!(again, response);
    let longer = export::verify(&exported(&running).await, &key, ed25519).unwrap();
    assert!(longer.size > summary.size);
    running.stop().await;
}

#[test]
fn whoever_is_not_let_in_changes_nothing() {
    with_token("whoever_is_not_let_in_changes_nothing", |dir| {
        run(not_let_in(dir));
    });
}

async fn not_let_in(dir: &Path) {
    let bed = Bed::new(dir);
    let running = bed.start().await;
    let before = exported(&running).await;

    let mut gateway = running.permits("latchkey/gateway");
    let status = gateway.authorise(cold_reset(1)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::PermissionDenied, "PEER_FORBIDDEN".to_owned())
    );
    let foreign = bed.foreign_permits(&running, RESET);
    foreign.clone().authorise(cold_reset(1)).await.unwrap_err();
    assert_eq!(exported(&running).await, before);

    // let in by its name, and stopped by policy: that leaves a trace
    let mut relay = cold_reset(2);
    relay.commands[0].class_id = 70;
    relay.commands[0].logical_name = "0.0.96.3.10.255".to_owned();
    relay.commands[0].index = 2;
    let status = authorise(&running, relay).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::PermissionDenied, "POLICY_DENIED".to_owned())
    );
    assert!(kit::status::mend(&status).is_some());

    let forged = RecordRequest {
        request_id: id(3),
        entry: Some(Entry {
            kind: EntryKind::Intent.into(),
            ..Entry::default()
        }),
    };
    let status = running.trail(RESET).record(forged).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::InvalidArgument, "INVALID_REQUEST".to_owned())
    );
    assert!(exported(&running).await.len() > before.len());
    running.stop().await;
}

#[test]
fn the_allowlist_is_kept_and_told() {
    with_token("the_allowlist_is_kept_and_told", |dir| {
        run(kept_and_told(dir))
    });
}

async fn kept_and_told(dir: &Path) {
    let bed = Bed::new(dir);
    let running = bed.start().await;
    let mut list = running.allowlist("operator/sam");
    let known = |version| GetAllowlistRequest {
        known_version: version,
    };
    let empty = list.get_allowlist(known(0)).await.unwrap().into_inner();
    assert!(empty.version > 0 && empty.entries.is_empty());
    let add = |network: &str| AddAllowlistEntryRequest {
        entry: Some(AllowlistEntry {
            side: AllowlistSide::Source.into(),
            network: network.to_owned(),
            reason: "the association service".to_owned(),
            ..AllowlistEntry::default()
        }),
    };
    for wide in ["0.0.0.0/0", "::/0", "10.0.0.1/8", "somewhere"] {
        let status = list.add_allowlist_entry(add(wide)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{wide}");
    }
    let added = list.add_allowlist_entry(add("127.0.0.1/32")).await.unwrap();
    let version = added.into_inner().version;
    assert!(version > empty.version);
    let told = list
        .get_allowlist(known(empty.version))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((told.version, told.entries.len()), (version, 1));
    let current = list
        .get_allowlist(known(version))
        .await
        .unwrap()
        .into_inner();
    assert!(current.entries.is_empty());
    let mut alice = running.allowlist("operator/alice");
    let refused = alice.add_allowlist_entry(add("127.0.0.2/32")).await;
    let status = refused.unwrap_err();
    assert_eq!(reason(&status), "POLICY_DENIED");
    running.stop().await;
}

#[test]
fn health_follows_the_trail() {
    with_token("health_follows_the_trail", |dir| run(health(dir)));
}

async fn health(dir: &Path) {
    let bed = Bed::new(dir);
    let running = bed.start().await;
    until("it serves", async || running.serving().await).await;
    bed.sql("ALTER TABLE entries RENAME TO hidden").await;
    let status = authorise(&running, cold_reset(1)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unavailable, "TRAIL_UNWRITABLE".to_owned())
    );
    until("it says that it does not serve", async || {
        !running.serving().await
    })
    .await;
    bed.sql("ALTER TABLE hidden RENAME TO entries").await;
    until("it serves again", async || running.serving().await).await;
    authorise(&running, cold_reset(1)).await.unwrap();
    running.stop().await;
}

#[test]
fn it_does_not_start_on_a_wrong_pin_or_a_torn_trail() {
    with_token("it_does_not_start_on_a_wrong_pin_or_a_torn_trail", |dir| {
        run(does_not_start(dir));
    });
}

async fn does_not_start(dir: &Path) {
    let bed = Bed::new(dir);
    let running = bed.start().await;
    authorise(&running, cold_reset(1)).await.unwrap();
    running.stop().await;
    bed.sql("DELETE FROM entries WHERE idx = 1").await;
    let refused = bed.start().await.ended().await.unwrap_err();
    assert!(refused.contains("entry 1 is missing"), "{refused}");
    let pin = bed.pin();
    let right = std::fs::read_to_string(&pin).unwrap();
    std::fs::write(&pin, "000000").unwrap();
    let refused = bed.start().await.ended().await.unwrap_err();
    assert!(refused.to_lowercase().contains("pin"), "{refused}");
    assert!(
        !refused.contains(right.trim()) && !refused.contains("000000"),
        "{refused}"
    );
}
