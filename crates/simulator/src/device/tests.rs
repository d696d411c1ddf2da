use super::*;
use crate::{MeterOptions, logs::LogEntry};

/// 2026-01-01T12:00:00Z
const NOON: i64 = 1_767_268_800_000;
const BOOT_MS: u64 = 3_000;

pub(crate) fn options() -> MeterOptions {
    let mut next = 0_u8;
    let keys = LabKeys::generate(|octets| {
        for octet in octets {
            next = next.wrapping_add(1);
            *octet = next;
        }
    });
    MeterOptions {
        boot_seconds: 3.0,
        ..MeterOptions::new("127.0.0.1:0".parse().unwrap(), keys)
    }
}

pub(crate) fn device(fault: Option<&str>) -> Device {
    let options = MeterOptions {
        fault: fault.map(|fault| fault.parse().unwrap()),
        ..options()
    };
    Device::new(&options, NOON).unwrap()
}

/// Resets at 10 s and lets the boot time pass.
fn reset(device: &mut Device, tier: Tier) -> Aftermath {
    device.advance(10_000);
    let aftermath = device.reset(tier, 10_000);
    device.advance(10_000 + BOOT_MS);
    aftermath
}

fn codes(device: &Device) -> Vec<u16> {
    device
        .events
        .entries()
        .iter()
        .map(|LogEntry(_, code)| *code)
        .collect()
}

#[test]
fn a_cold_reset_is_a_power_cut_for_the_boards_and_nothing_else() {
    for disconnected in [false, true] {
        let mut device = Device::new(
            &MeterOptions {
                disconnected,
                ..options()
            },
            NOON,
        )
        .unwrap();
        let entries = device.load_profile.entries().clone();
        assert_eq!(reset(&mut device, Tier::Cold), Aftermath::SessionGone);
        assert_eq!(device.hardware.relay.is_closed(), !disconnected);
        assert_eq!(device.hardware.relay.moves(), 0);
        assert_eq!(device.hardware.power_failures, 1);
        assert_eq!(codes(&device), [code::POWER_DOWN, code::POWER_UP]);
        assert_eq!(*device.load_profile.entries(), entries);
        assert_eq!(device.hardware.uptime_s(10_000 + BOOT_MS + 2_000), 2);
    }
}

#[test]
fn each_tier_leaves_its_own_evidence() {
    let cases = [
        (Tier::Soft, Profile::Standard, 0, vec![], 13),
        (Tier::Warm, Profile::Standard, 0, vec![code::WATCHDOG], 1),
        (
            Tier::Cold,
            Profile::Standard,
            1,
            vec![code::POWER_DOWN, code::POWER_UP],
            0,
        ),
        (
            Tier::Cold,
            Profile::Procedure,
            1,
            vec![code::POWER_DOWN, code::POWER_UP, code::COLD_START],
            0,
        ),
    ];
    for (tier, profile, failures, logged, uptime) in cases {
        let mut device = Device::new(
            &MeterOptions {
                profile,
                ..options()
            },
            NOON,
        )
        .unwrap();
        assert_eq!(reset(&mut device, tier), Aftermath::SessionGone);
        assert_eq!(device.hardware.power_failures, failures, "{tier:?}");
        assert_eq!(codes(&device), logged, "{tier:?}");
        assert_eq!(
            device.hardware.uptime_s(10_000 + BOOT_MS),
            uptime,
            "{tier:?}"
        );
    }
}

#[test]
fn the_meter_is_silent_until_its_self_test_is_over_and_then_tells_that_it_rejoined() {
    let mut device = device(None);
    device.reset(Tier::Cold, 1_000);
    assert!(device.is_silent());
    assert_eq!(device.due(1_000), 3_000);
    device.advance(3_999);
    assert!(device.is_silent());
    device.take_happened();
    device.advance(4_000);
    assert!(!device.is_silent());
    let told = device.take_happened();
    assert!(told.contains(&Happening::Rejoin { silent_ms: 3_000 }));
    assert!(told.contains(&Happening::Led {
        state: "slow_pulse"
    }));
    assert!(told.iter().any(|what| matches!(
        what,
        Happening::Relay {
            moved: false,
            cause: "boot",
            ..
        }
    )));
}

#[test]
fn the_led_shows_what_the_boards_do() {
    let leds = |device: &mut Device| {
        let told = device.take_happened();
        told.into_iter()
            .filter_map(|what| {
                if let Happening::Led { state } = what {
                    Some(state)
                } else {
                    None
                }
            })
            .collect::<Vec<_>>()
    };
    let mut device = device(Some("stay-silent"));
    assert!(leds(&mut device).is_empty());
    device.reset(Tier::Cold, 0);
    assert_eq!(leds(&mut device), ["solid_red"]);
    device.advance(BOOT_MS);
    assert_eq!(leds(&mut device), ["rapid_stutter"]);
    assert!(device.is_silent());
    device.advance(u64::from(u32::MAX));
    assert!(device.is_silent(), "it stays so");
}

#[test]
fn partial_resets_leave_half_of_the_evidence() {
    let mut comm = device(Some("partial-comm-only"));
    assert_eq!(reset(&mut comm, Tier::Cold), Aftermath::SessionGone);
    assert_eq!((comm.hardware.power_failures, codes(&comm)), (0, vec![]));
    assert_eq!(comm.hardware.uptime_s(13_000), 13);

    let mut metrology = device(Some("partial-metrology-only"));
    assert_eq!(reset(&mut metrology, Tier::Cold), Aftermath::SessionLives);
    assert_eq!(metrology.hardware.power_failures, 1);
    assert_eq!(codes(&metrology), [code::POWER_DOWN, code::POWER_UP]);
    assert!(
        !metrology
            .take_happened()
            .iter()
            .any(|what| matches!(what, Happening::Rejoin { .. }))
    );
}

#[test]
fn defects_strike_during_the_reset() {
    let mut wrong = device(Some("wrong-relay"));
    reset(&mut wrong, Tier::Warm);
    assert!(!wrong.hardware.relay.is_closed());
    assert!(
        wrong
            .take_happened()
            .iter()
            .any(|what| matches!(what, Happening::Relay { moved: true, .. }))
    );

    let mut loses = device(Some("data-loss"));
    reset(&mut loses, Tier::Cold);
    assert!(loses.load_profile.entries().is_empty());
    assert!(codes(&loses).contains(&code::NV_MEMORY));
}

#[test]
fn resets_are_accepted_put_off_or_ignored() {
    let mut busy = device(Some("fota-busy"));
    assert_eq!(
        (busy.accept_reset(Tier::Cold), busy.take_accepted()),
        (2, None)
    );
    assert_eq!(busy.accept_reset(Tier::Cold), 2);

    let mut later = device(Some("temporary-failure=2"));
    assert_eq!(
        [
            later.accept_reset(Tier::Warm),
            later.accept_reset(Tier::Warm)
        ],
        [2, 2]
    );
    assert_eq!(
        (later.accept_reset(Tier::Warm), later.take_accepted()),
        (0, Some(Tier::Warm))
    );

    let mut deaf = device(Some("no-reboot"));
    assert_eq!(
        (deaf.accept_reset(Tier::Cold), deaf.take_accepted()),
        (0, None)
    );
}

#[test]
fn a_killed_meter_comes_back_as_after_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meter.json");
    let options = MeterOptions {
        state_file: Some(path.clone()),
        disconnected: true,
        ..options()
    };
    let mut first = Device::new(&options, NOON).unwrap();
    first.reset(Tier::Cold, 5);
    first.save().unwrap();
    drop(first);

    let connected = MeterOptions {
        disconnected: false,
        ..options
    };
    let second = Device::new(&connected, NOON + 60_000).unwrap();
    assert!(
        !second.hardware.relay.is_closed(),
        "the relay is mechanical: options do not move it"
    );
    assert_eq!(second.hardware.power_failures, 2);
    assert_eq!(
        codes(&second),
        [code::POWER_DOWN, code::POWER_DOWN, code::POWER_UP]
    );
    assert_eq!(second.load_profile.entries().len(), 96);

    std::fs::write(&path, "{").unwrap();
    assert!(matches!(
        Device::new(&connected, NOON),
        Err(Error::State { .. })
    ));
}
