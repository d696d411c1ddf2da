//! One meter without its socket: hardware, clock, logs, counters and faults, and what a reset does to them.

use std::{mem, net::SocketAddr};

use crate::{
    Error, Happening, LabKeys, MeterOptions, Profile, Transport,
    cipher::{Cipher, KeptCounters},
    fault::{ArmedFault, FaultKind},
    logs::{EventLog, LoadProfile, RingLog, code},
    nvram::{Nvram, StateFile},
    options::Terms,
    physics::{BoardKind, Hardware, LOAD_W, Led, Relay, Scope, Tier},
    rtc::Rtc,
};

/// One meter.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) profile: Profile,
    /// What the management client must do, and what it is offered.
    pub(crate) terms: Terms,
    pub(crate) titles: Titles,
    pub(crate) hardware: Hardware,
    pub(crate) rtc: Rtc,
    pub(crate) events: EventLog,
    pub(crate) load_profile: LoadProfile,
    pub(crate) ring: RingLog,
    pub(crate) cipher: Cipher,
    pub(crate) fault: ArmedFault,
    /// Where it pushes to when it is on the mesh again.
    pub(crate) push: Push,
    /// A reset that was accepted and happens once its answer is out.
    accepted: Option<Tier>,
    /// The reset the boards are booting from.
    booting: Option<Booting>,
    executed: u32,
    led: Led,
    happened: Vec<Happening>,
    state_file: Option<StateFile>,
}

/// The names of the two ends in ciphering.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Titles {
    pub(crate) client: [u8; 8],
    pub(crate) server: [u8; 8],
}

/// Where a push goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Push {
    pub(crate) address: Option<SocketAddr>,
    /// Whether it is a datagram; else it goes over a connection of its own.
    pub(crate) is_datagram: bool,
}

#[derive(Debug, Clone, Copy)]
struct Booting {
    tier: Tier,
    scope: Scope,
    since: u64,
}

/// What the rest of the world notices of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aftermath {
    /// The session goes on.
    SessionLives,
    /// Associations and connections are gone.
    SessionGone,
}

impl Device {
    /// A meter as it stands in the field at `host_ms` (since the Unix epoch), or as its state file says.
    pub(crate) fn new(options: &MeterOptions, host_ms: i64) -> Result<Self, Error> {
        let (state_file, saved) = match &options.state_file {
            Some(path) => StateFile::open(path).map(|(file, saved)| (Some(file), saved))?,
            None => (None, None),
        };
        let known = saved.is_some();
        let nvram = saved.unwrap_or_else(|| fresh(options, host_ms));
        let mut hardware = Hardware::new(nvram.relay, options.boot_ms()?);
        hardware.power_failures = nvram.power_failures;
        hardware.import_mwh = nvram.import_mwh;
        let mut rtc = Rtc::new(host_ms);
        rtc.offset_ms = nvram.clock_offset_ms;
        let mut device = Self {
            profile: options.profile,
            terms: options.terms(),
            titles: titles(&options.lab_keys),
            hardware,
            rtc,
            events: nvram.events,
            load_profile: nvram.load_profile,
            ring: RingLog::default(),
            cipher: Cipher::new(options, nvram.counters, nvram.keys)?,
            fault: ArmedFault::new(options.fault),
            push: Push {
                address: options.notify.push,
                is_datagram: options.transport == Transport::Udp,
            },
            accepted: None,
            booting: None,
            executed: 0,
            led: Led::SlowPulse,
            happened: Vec::new(),
            state_file,
        };
        if known {
            // The process was gone, so the meter was without power: it counts that, and logs it as a meter does.
            device.hardware.power_failures = device.hardware.power_failures.saturating_add(1);
            device.log(0, code::POWER_DOWN);
            device.log(0, code::POWER_UP);
        }
        device.tell_relay("start", false);
        device.tell_counters();
        Ok(device)
    }

    /// Lets time pass until `now`.
    pub(crate) fn advance(&mut self, now: u64) {
        for phase in self.hardware.advance(now) {
            let tier = self.booting.map_or("cold", |booting| booting.tier.name());
            self.tell(Happening::Boot {
                tier,
                board: phase.board.name(),
                phase: phase.phase,
            });
            self.ring.push(&format!(
                "{} {} {}",
                self.rtc.shows(now),
                phase.board.name(),
                phase.phase
            ));
            if phase.board == BoardKind::Metrology && phase.phase == "running" {
                self.log_start(now);
            }
        }
        if self.hardware.metrology.is_running() {
            self.load_profile
                .advance(self.rtc.shows(now), self.import_wh());
        }
        if let Some(booting) = self.booting
            && self.hardware.due().is_none()
        {
            self.booting = None;
            self.rejoin(booting, now);
        }
        self.tell_led();
    }

    /// When `advance` is to be called next, in milliseconds since the meter was made.
    pub(crate) fn due(&self, now: u64) -> u64 {
        let capture = now.saturating_add(self.load_profile.due_in(self.rtc.shows(now)));
        self.hardware
            .due()
            .map_or(capture, |boot| boot.min(capture))
    }

    /// Whether nothing of the meter can be reached.
    pub(crate) fn is_silent(&self) -> bool {
        !self.hardware.comm.is_running()
    }

    /// Answers a request for a reset: 0 accepts it (to be executed after the answer), 2 puts it off.
    pub(crate) fn accept_reset(&mut self, tier: Tier) -> u8 {
        if self.fault.is(FaultKind::FotaBusy) || self.fault.strikes(FaultKind::TemporaryFailure) {
            return 2;
        }
        if !self.fault.is(FaultKind::NoReboot) {
            self.accepted = Some(tier);
        }
        0
    }

    /// Whether a reset was accepted and has not been executed yet.
    pub(crate) fn has_accepted(&self) -> bool {
        self.accepted.is_some()
    }

    /// The reset that was accepted, to be executed now.
    pub(crate) fn take_accepted(&mut self) -> Option<Tier> {
        self.accepted.take()
    }

    /// Executes a reset.
    pub(crate) fn reset(&mut self, tier: Tier, now: u64) -> Aftermath {
        self.executed = self.executed.saturating_add(1);
        self.tell(Happening::Reset {
            tier: tier.name(),
            executed: self.executed,
        });
        self.ring
            .push(&format!("{} reset {}", self.rtc.shows(now), tier.name()));
        let scope = if self.fault.is(FaultKind::PartialCommOnly) {
            Scope::Only(BoardKind::Comm)
        } else if self.fault.is(FaultKind::PartialMetrologyOnly) {
            Scope::Only(BoardKind::Metrology)
        } else {
            Scope::Both
        };
        self.play_defects(now);
        match tier {
            Tier::Soft => return Aftermath::SessionGone,
            Tier::Warm => self.hardware.restart(scope, now),
            Tier::Cold => {
                if scope.has(BoardKind::Metrology) {
                    self.log(now, code::POWER_DOWN);
                    self.load_profile.mark(LoadProfile::POWER_DOWN);
                }
                self.hardware.power_cut(scope, now);
                self.hardware.power_up(scope, now);
            }
        }
        for board in [BoardKind::Metrology, BoardKind::Comm] {
            if scope.has(board) {
                self.tell(Happening::Boot {
                    tier: tier.name(),
                    board: board.name(),
                    phase: "bootloader",
                });
            }
        }
        self.booting = Some(Booting {
            tier,
            scope,
            since: now,
        });
        self.tell_led();
        if scope.has(BoardKind::Comm) {
            Aftermath::SessionGone
        } else {
            Aftermath::SessionLives
        }
    }

    /// What the fault on command adds to a reset.
    fn play_defects(&mut self, now: u64) {
        if self.fault.is(FaultKind::WrongRelay) {
            self.hardware.relay.slip();
            self.tell_relay("reset", true);
        }
        if self.fault.is(FaultKind::DataLoss) {
            self.load_profile.clear();
            self.log(now, code::NV_MEMORY);
        }
        if self.fault.is(FaultKind::CounterRollback) {
            self.cipher.roll_back();
        }
        if self.fault.is(FaultKind::StaySilent) {
            self.hardware.comm.dies_in_post = true;
        }
    }

    /// What the metrology board logs when it runs again.
    fn log_start(&mut self, now: u64) {
        match self.booting.map(|booting| booting.tier) {
            Some(Tier::Cold) => {
                self.log(now, code::POWER_UP);
                if self.profile == Profile::Procedure {
                    self.log(now, code::COLD_START);
                }
            }
            Some(Tier::Warm) => self.log(now, code::WATCHDOG),
            Some(Tier::Soft) | None => {}
        }
    }

    fn rejoin(&mut self, booting: Booting, now: u64) {
        self.tell_relay("boot", false);
        self.tell_counters();
        if booting.scope.has(BoardKind::Comm) && !self.is_silent() {
            self.ring.push(&format!("{} rejoin", self.rtc.shows(now)));
            self.tell(Happening::Rejoin {
                silent_ms: now.saturating_sub(booting.since),
            });
        }
    }

    /// What the global meter reset (0.0.10.0.0.255) does: the harm that makes it forbidden.
    pub(crate) fn wipe(&mut self, now: u64) {
        self.load_profile.clear();
        self.hardware.import_mwh = 0;
        self.events.clear(self.rtc.shows(now));
        self.tell(Happening::Logged {
            code: code::CLEARED,
        });
    }

    pub(crate) fn import_wh(&self) -> u32 {
        u32::try_from(self.hardware.import_mwh / 1000).unwrap_or(u32::MAX)
    }

    pub(crate) fn log(&mut self, now: u64, code: u16) {
        self.events.push(self.rtc.shows(now), code);
        self.tell(Happening::Logged { code });
    }

    pub(crate) fn tell_relay(&mut self, cause: &'static str, moved: bool) {
        let relay = &self.hardware.relay;
        let what = Happening::Relay {
            output: relay.is_closed(),
            control_state: relay.state().name(),
            control_mode: relay.mode().code(),
            moved,
            cause,
        };
        self.tell(what);
    }

    pub(crate) fn tell_counters(&mut self) {
        let what = Happening::Counters {
            client: self.cipher.client(),
            server: self.cipher.server(),
            power_failures: self.hardware.power_failures,
        };
        self.tell(what);
    }

    fn tell_led(&mut self) {
        let led = self.hardware.led();
        if led != mem::replace(&mut self.led, led) {
            self.tell(Happening::Led { state: led.name() });
        }
    }

    pub(crate) fn tell(&mut self, what: Happening) {
        self.happened.push(what);
    }

    /// What happened since the last call.
    pub(crate) fn take_happened(&mut self) -> Vec<Happening> {
        mem::take(&mut self.happened)
    }

    /// Writes NVRAM to the state file, if there is one. To be called before an octet leaves that depends on it.
    pub(crate) fn save(&mut self) -> Result<(), Error> {
        let Some(file) = &self.state_file else {
            return Ok(());
        };
        let (counters, keys) = self.cipher.kept();
        file.save(&Nvram {
            relay: self.hardware.relay.clone(),
            power_failures: self.hardware.power_failures,
            import_mwh: self.hardware.import_mwh,
            clock_offset_ms: self.rtc.offset_ms,
            counters,
            keys,
            events: self.events.clone(),
            load_profile: self.load_profile.clone(),
        })
    }
}

fn titles(keys: &LabKeys) -> Titles {
    Titles {
        client: keys.client_system_title(),
        server: keys.server_system_title(),
    }
}

/// The NVRAM of a meter that has been in the field for a while.
fn fresh(options: &MeterOptions, host_ms: i64) -> Nvram {
    let period_ms = LoadProfile::PERIOD_S.unsigned_abs() * 1000;
    let wh_per_period = u32::try_from(LOAD_W * period_ms / 3_600_000).unwrap_or(0);
    Nvram {
        relay: Relay::new(!options.disconnected),
        power_failures: 0,
        import_mwh: u64::from(START_WH) * 1000,
        clock_offset_ms: 0,
        counters: KeptCounters::default(),
        keys: None,
        events: EventLog::default(),
        load_profile: LoadProfile::with_history(host_ms, START_WH, wh_per_period),
    }
}

/// What a fresh meter has measured so far.
const START_WH: u32 = 1_234_000;

mod keys;
#[cfg(test)]
pub(crate) mod tests;
