//! Killed at every step, with SIGKILL, in a process of its own.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command as Process;

use super::*;

const DIR: &str = "AUDITOR_TEST_CRASH_DIR";
const NAME: &str = "tests::crashes::a_crash_at_any_step_ends_in_one_intent_and_one_permit";

#[tokio::test]
async fn a_crash_at_any_step_ends_in_one_intent_and_one_permit() {
    if let Some(dir) = std::env::var_os(DIR) {
        return doomed(Path::new(&dir)).await;
    }
    for point in CRASH_POINTS {
        let (_guard, dir) = temporary();
        let status = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env(DIR, &dir)
            .env(
                "LATCHKEY_CRASH_AT",
                format!("{point}:{}", dir.join("armed").display()),
            )
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(9), "{point}: {status}");

        let running = Running::start(&dir).await;
        let auditor = &running.api.auditor;
        let first = auditor.authorise(&reset(), &cold_reset(1)).await.unwrap();
        let again = auditor.authorise(&reset(), &cold_reset(1)).await.unwrap();
        assert_eq!(first, again, "{point}");
        let intents = running.of_kind(EntryKind::Intent).await;
        assert_eq!(intents.len(), 1, "{point}");
        let signed = first.permit.unwrap();
        let permit = kit::permit::verify(
            &signed,
            &auditor.keys.permit,
            kit::clock::now(),
            Duration::ZERO,
        )
        .unwrap();
        assert_eq!(permit.permit_id, intents[0].permit_id, "{point}");
        running.verified().await;
        running.stop().await;
    }
}

/// What the doomed process does: starts, arms the crash, authorises and signs a checkpoint.
async fn doomed(dir: &Path) {
    let running = Running::start(dir).await;
    std::fs::write(dir.join("armed"), []).unwrap();
    let answer = running
        .api
        .auditor
        .authorise(&reset(), &cold_reset(1))
        .await;
    answer.unwrap();
    running.api.trail.checkpoint().await.unwrap();
}
