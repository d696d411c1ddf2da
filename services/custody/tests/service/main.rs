//! Custody over mTLS with a real token: what it does, and above all what it refuses.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod keys;
mod meter;
mod permits;
mod rotation;
mod stock;
mod stream;

use std::path::Path;

use dlms::{Data, Method};
use kit::{Channel, Tasks};
use latchkey_proto::{audit::v1::Permit, custody::v1::cipher_service_client::CipherServiceClient};
use support::{Association, Bed, Meter, Running, action, get, method, permit, until, with_token};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

const METER: &str = "meter-0001";
const SCRIPTS: &str = "0.0.10.1.0.255";
const RELAY: &str = "0.0.96.3.10.255";
const IC: &str = "0.0.43.1.0.255";

#[test]
fn custody_with_a_real_token() {
    with_token("custody_with_a_real_token", |dir| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(everything(dir));
    });
}

struct House {
    bed: Bed,
    running: Running,
    custody: CipherServiceClient<Channel>,
}

impl House {
    /// A context with HLS5 on the laboratory meter, under a permit of the reset's commands.
    async fn hls(&self) -> Association {
        let signed = self.bed.auditor.sign(&reset_permit());
        Association::hls(&self.custody, &signed, METER)
            .await
            .unwrap()
    }
}

/// Reads of relay and counter, and the cold reset script once.
fn reset_permit() -> Permit {
    let commands = vec![
        get(70, RELAY, 2),
        action(9, SCRIPTS, 1, &[0x12, 0, 3]),
        get(1, IC, 2),
        action(70, RELAY, 2, &[0x0F, 0]),
    ];
    permit(METER, commands)
}

fn cold() -> (Method, Option<Data>) {
    (method(9, SCRIPTS, 1), Some(Data::LongUnsigned(3)))
}

/// Without its token custody can do nothing, and says so.
async fn health_is_that_of_the_token(house: &House) {
    let tokens = house.bed.dir.join("tokens");
    let pulled = house.bed.dir.join("pulled");
    let status = async || {
        let request = HealthCheckRequest {
            service: "latchkey.custody.v1.CipherService".to_owned(),
        };
        let mut health = house.bed.health(house.running.address);
        health.check(request).await.unwrap().into_inner().status()
    };
    until("it serves", async || {
        status().await == ServingStatus::Serving
    })
    .await;
    std::fs::rename(&tokens, &pulled).unwrap();
    until("the token is missed", async || {
        status().await == ServingStatus::NotServing
    })
    .await;
    std::fs::rename(&pulled, &tokens).unwrap();
    until("the token is taken back", async || {
        status().await == ServingStatus::Serving
    })
    .await;
}

async fn everything(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    keys::lab_import_is_off_unless_configured(&bed, &tasks).await;
    let running = bed
        .custody("lab_import = true\ncounter_block = 4", &tasks)
        .await;
    let custody = bed.cipher(running.address, "latchkey/association");
    let house = House {
        bed,
        running,
        custody,
    };
    let mut simulated = Meter::new(METER);

    keys::keys_go_in_and_none_comes_out(&house).await;
    keys::bad_keys_are_refused(&house).await;
    keys::keys_are_generated_and_listed(&house).await;
    keys::wrapped_keys_are_imported(&house).await;
    permits::a_reset_is_ciphered_once(&house, &mut simulated).await;
    meter::nothing_comes_before_its_turn(&house, &mut simulated).await;
    permits::only_the_permit_is_ciphered(&house, &mut simulated).await;
    meter::a_false_meter_is_found_out(&house, &mut simulated).await;
    meter::responses_are_authentic_and_new(&house, &mut simulated).await;
    meter::recordings_are_old(&house, &mut simulated).await;
    meter::blocks_follow_a_permitted_get(&house, &mut simulated).await;
    meter::low_level_security_believes_rising_counters_only(&house, &mut simulated).await;
    meter::general_glo_names_the_sender(&house, &mut simulated).await;
    stream::jobs_are_done_in_order(&house, &mut simulated).await;
    stream::a_stream_takes_what_a_call_takes(&house, &mut simulated).await;
    permits::the_public_client_reads_counters_only(&house).await;
    permits::a_permit_opens_what_it_says(&house).await;
    permits::contexts_belong_to_their_peer(&house, &mut simulated).await;
    stock::many_meters_come_in_over_one_stream(&house).await;
    stock::facts_are_changed_from_what_was_seen(&house).await;
    stock::compromised_keys_are_refused(&house).await;
    stock::destroyed_keys_never_come_back(&house).await;
    rotation::only_what_was_prepared_is_ciphered(&house).await;
    rotation::keys_are_in_force_when_the_meter_has_proven_them(&house).await;
    rotation::openings_without_a_proof_are_bounded(&house).await;
    keys::refused_entries_hold_up_no_others(&house).await;
    keys::a_moved_row_is_noticed(&house).await;
    stock::older_rows_lose_their_fingerprints(&house).await;
    let house = permits::uses_outlive_a_restart(house, &mut simulated, &tasks).await;
    stock::older_rows_have_fingerprints_again(&house).await;
    keys::no_secret_is_at_rest(&house).await;
    health_is_that_of_the_token(&house).await;

    house.running.stop().await;
    trigger.fire();
    tasks.join().await;
}
