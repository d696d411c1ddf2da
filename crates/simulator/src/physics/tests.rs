use super::*;

const BOOT: u64 = 3_000;

fn running(relay_closed: bool) -> Hardware {
    Hardware::new(Relay::new(relay_closed), BOOT)
}

#[test]
fn a_power_cut_never_moves_the_relay() {
    for closed in [true, false] {
        for scope in [
            Scope::Both,
            Scope::Only(BoardKind::Metrology),
            Scope::Only(BoardKind::Comm),
        ] {
            let mut hardware = running(closed);
            for at in [10, 20, 30] {
                hardware.power_cut(scope, at);
                hardware.power_up(scope, at + 1);
                hardware.power_cut(scope, at + 2);
                hardware.power_up(scope, at + BOOT);
                hardware.advance(at + 3 * BOOT);
            }
            assert_eq!(hardware.relay.is_closed(), closed);
            assert_eq!(hardware.relay.moves(), 0);
        }
    }
}

#[test]
fn a_cold_reset_counts_a_power_failure_and_boots_both_boards() {
    let mut hardware = running(true);
    hardware.advance(60_000);
    assert_eq!(hardware.uptime_s(60_000), 60);
    hardware.power_cut(Scope::Both, 60_000);
    assert_eq!((hardware.power_failures, hardware.led()), (1, Led::Dark));
    hardware.power_up(Scope::Both, 60_000);
    assert_eq!(hardware.led(), Led::SolidRed);
    assert!(!hardware.comm.is_running() && !hardware.metrology.is_running());
    assert_eq!(hardware.due(), Some(62_000));
    let post: Vec<&str> = hardware
        .advance(62_000)
        .iter()
        .map(|phase| phase.phase)
        .collect();
    assert_eq!(post, ["post", "post"]);
    assert!(!hardware.comm.is_running());
    let up = hardware.advance(63_000);
    assert_eq!(up.len(), 2);
    assert!(hardware.comm.is_running() && hardware.metrology.is_running());
    assert_eq!((hardware.led(), hardware.due()), (Led::SlowPulse, None));
    assert_eq!(hardware.uptime_s(64_000), 1);
}

#[test]
fn a_warm_restart_is_quicker_and_no_power_failure() {
    let mut hardware = running(true);
    hardware.restart(Scope::Both, 1_000);
    assert!(
        hardware
            .advance(2_499)
            .iter()
            .all(|phase| phase.phase == "post")
    );
    assert_eq!(hardware.advance(2_500).len(), 2);
    assert_eq!((hardware.power_failures, hardware.uptime_s(3_500)), (0, 1));
}

#[test]
fn one_board_alone_leaves_the_other_running() {
    let mut hardware = running(true);
    hardware.power_cut(Scope::Only(BoardKind::Comm), 5_000);
    hardware.power_up(Scope::Only(BoardKind::Comm), 5_000);
    assert_eq!((hardware.power_failures, hardware.uptime_s(6_000)), (0, 6));
    assert!(!hardware.comm.is_running());
    hardware.advance(9_000);
    hardware.power_cut(Scope::Only(BoardKind::Metrology), 9_000);
    hardware.power_up(Scope::Only(BoardKind::Metrology), 9_000);
    assert_eq!(hardware.power_failures, 1);
    assert!(hardware.comm.is_running() && !hardware.metrology.is_running());
}

#[test]
fn a_board_that_dies_in_its_self_test_stutters_for_ever() {
    let mut hardware = running(true);
    hardware.comm.dies_in_post = true;
    hardware.restart(Scope::Both, 0);
    let phases = hardware.advance(u64::MAX);
    assert_eq!(
        phases.last().map(|phase| (phase.board, phase.phase)),
        Some((BoardKind::Comm, "panic"))
    );
    assert_eq!((hardware.led(), hardware.due()), (Led::RapidStutter, None));
}

#[test]
fn energy_is_measured_behind_a_closed_relay_only() {
    let mut hardware = running(true);
    hardware.advance(3_600_000);
    assert_eq!(hardware.import_mwh, LOAD_W * 1000);
    hardware.relay.remote_disconnect();
    hardware.advance(7_200_000);
    assert_eq!(hardware.import_mwh, LOAD_W * 1000);
}
