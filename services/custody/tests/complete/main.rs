//! Custody with a real token, against meters of every suite, mechanism, form and service. The meter's end is the
//! laboratory cipher, an implementation of its own.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod enrol;
mod forms;
mod lists;
mod mechanisms;
mod refusals;
mod talk;

use std::path::Path;

use kit::{Channel, Tasks};
use latchkey_proto::custody::v1::{
    GetClientKeysRequest, GetClientKeysResponse, cipher_service_client::CipherServiceClient,
};
use support::{Bed, Running, with_token};

/// Everything that is weak is allowed, except where a test says otherwise.
const WEAK: &str =
    "lab_import = true\ncounter_block = 8\nallow_legacy_hls = true\nallow_encryption_only = true";

#[test]
fn custody_with_every_kind_of_meter() {
    with_token("custody_with_every_kind_of_meter", |dir| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(everything(dir));
    });
}

struct House {
    bed: Bed,
    running: Running,
    custody: CipherServiceClient<Channel>,
    /// The head-end's public keys of suites 1 and 2.
    client_keys: [GetClientKeysResponse; 2],
}

impl House {
    async fn open(bed: Bed, config: &str, tasks: &Tasks) -> Self {
        let running = bed.custody(config, tasks).await;
        let custody = bed.cipher(running.address, "latchkey/association");
        let mut keys = bed.keys(running.address);
        let mut of = async |security_suite| {
            let request = GetClientKeysRequest { security_suite };
            keys.get_client_keys(request).await.unwrap().into_inner()
        };
        let client_keys = [of(1).await, of(2).await];
        Self {
            bed,
            running,
            custody,
            client_keys,
        }
    }
}

async fn everything(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    let house = House::open(bed, WEAK, &tasks).await;

    enrol::keys_of_every_suite_come_in(&house).await;
    enrol::other_keys_are_others(&house).await;
    enrol::bad_fields_are_named(&house).await;
    enrol::wrapped_keys_of_every_kind_come_in(&house).await;
    enrol::rows_cannot_be_weakened(&house).await;
    forms::every_form_in_every_suite(&house).await;
    forms::signed_forms(&house).await;
    forms::encryption_without_authentication(&house).await;
    forms::recordings_are_not_deciphered_without_their_tag(&house).await;
    forms::a_dedicated_key_begins_anew(&house).await;
    forms::an_answer_is_of_its_transaction(&house).await;
    forms::an_ephemeral_key_is_signed_by_the_meter(&house).await;
    forms::both_algorithm_ids(&house).await;
    mechanisms::every_mechanism_ciphered(&house).await;
    mechanisms::every_mechanism_in_clear(&house).await;
    mechanisms::a_wrong_answer_ends_the_context(&house).await;
    mechanisms::a_long_answer_goes_in_blocks(&house).await;
    mechanisms::a_meter_that_lost_its_counter_is_believed(&house).await;
    mechanisms::what_is_unproven_is_not_stored(&house).await;
    lists::lists_are_covered_and_counted_whole(&house).await;
    lists::values_go_out_in_blocks(&house).await;
    lists::values_in_blocks_are_not_spliced(&house).await;
    lists::answers_come_in_blocks(&house).await;
    lists::notifications_are_confirmed(&house).await;
    refusals::answers_are_as_agreed(&house).await;
    refusals::challenges_are_not_requests(&house).await;
    refusals::signatures_are_for_one_purpose(&house).await;
    refusals::the_enrolment_says_how(&house).await;
    certificates::a_meters_key_comes_with_its_certificate(&house).await;
    certificates::the_head_ends_own_certificates_live_in_the_token(&house).await;
    let house = refusals::what_is_weak_needs_leave(house, &tasks).await;
    enrol::no_secret_is_at_rest(&house).await;

    house.running.stop().await;
    trigger.fire();
    tasks.join().await;
}
