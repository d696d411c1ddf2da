//! The hardware: two boards, a latching relay, a supply, an LED. Time comes in as milliseconds since the meter was made.

mod relay;

pub(crate) use relay::Relay;

/// How deep a reset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Application layer only: buffers and associations go, the boards keep running.
    Soft,
    /// The RTOS of both boards restarts; the supply stays.
    Warm,
    /// The internal supply is cycled: for the boards, a power cut.
    Cold,
}

impl Tier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// One of the two boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoardKind {
    /// Measures, and owns relay, clock and logs.
    Metrology,
    /// Talks: mesh radio, DLMS stack, image transfer.
    Comm,
}

impl BoardKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Metrology => "metrology",
            Self::Comm => "comm",
        }
    }
}

/// Which boards something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Both,
    Only(BoardKind),
}

impl Scope {
    pub(crate) fn has(self, kind: BoardKind) -> bool {
        match self {
            Self::Both => true,
            Self::Only(only) => only == kind,
        }
    }
}

/// What a board is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoardState {
    /// Without power.
    Off,
    /// Loading its firmware until a time, then testing itself.
    Bootloader { post_from: u64, running_from: u64 },
    /// Power-on self-test.
    Post { running_from: u64 },
    /// Running since a time.
    Running { since: u64 },
    /// Its kernel gave up; only a power cycle helps.
    Panic,
}

impl BoardState {
    fn phase(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Bootloader { .. } => "bootloader",
            Self::Post { .. } => "post",
            Self::Running { .. } => "running",
            Self::Panic => "panic",
        }
    }
}

/// A board and its firmware.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) kind: BoardKind,
    pub(crate) firmware: &'static str,
    pub(crate) state: BoardState,
    /// A board with this defect panics at the end of its next self-test.
    pub(crate) dies_in_post: bool,
}

impl Board {
    fn new(kind: BoardKind, firmware: &'static str) -> Self {
        Self {
            kind,
            firmware,
            state: BoardState::Running { since: 0 },
            dies_in_post: false,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, BoardState::Running { .. })
    }

    /// Begins to boot; the self-test takes the last third.
    fn boot(&mut self, now: u64, boot_ms: u64) {
        let running_from = now.saturating_add(boot_ms);
        self.state = BoardState::Bootloader {
            post_from: running_from - boot_ms / 3,
            running_from,
        };
    }

    /// The state this one gives way to at `now`, and when the next change is due.
    fn step(&self, now: u64) -> Option<BoardState> {
        match self.state {
            BoardState::Bootloader {
                post_from,
                running_from,
            } if now >= post_from => Some(BoardState::Post { running_from }),
            BoardState::Post { running_from } if now >= running_from => {
                Some(if self.dies_in_post {
                    BoardState::Panic
                } else {
                    BoardState::Running {
                        since: running_from,
                    }
                })
            }
            _ => None,
        }
    }

    fn due(&self) -> Option<u64> {
        match self.state {
            BoardState::Bootloader { post_from, .. } => Some(post_from),
            BoardState::Post { running_from } => Some(running_from),
            BoardState::Off | BoardState::Running { .. } | BoardState::Panic => None,
        }
    }
}

/// The metrological LED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Led {
    /// Normal.
    SlowPulse,
    /// Resetting.
    SolidRed,
    /// Kernel panic.
    RapidStutter,
    /// No power.
    Dark,
}

impl Led {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SlowPulse => "slow_pulse",
            Self::SolidRed => "solid_red",
            Self::RapidStutter => "rapid_stutter",
            Self::Dark => "dark",
        }
    }
}

/// A board went into another phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Phase {
    pub(crate) board: BoardKind,
    pub(crate) phase: &'static str,
}

/// The whole of one meter's hardware.
#[derive(Debug)]
pub(crate) struct Hardware {
    pub(crate) metrology: Board,
    pub(crate) comm: Board,
    /// Mechanical. Nothing in this file writes to it: whatever happens to power, it stays.
    pub(crate) relay: Relay,
    /// NVRAM: how often the metrology board lost its power.
    pub(crate) power_failures: u32,
    /// NVRAM: energy imported, in mWh.
    pub(crate) import_mwh: u64,
    boot_ms: u64,
    metered_until: u64,
}

impl Hardware {
    /// A meter that has been running for a while at time 0.
    pub(crate) fn new(relay: Relay, boot_ms: u64) -> Self {
        Self {
            metrology: Board::new(BoardKind::Metrology, METROLOGY_FIRMWARE),
            comm: Board::new(BoardKind::Comm, COMM_FIRMWARE),
            relay,
            power_failures: 0,
            import_mwh: 0,
            boot_ms,
            metered_until: 0,
        }
    }

    /// Cuts the supply of the boards. The relay is a latch: it needs a pulse to move, and gets none.
    pub(crate) fn power_cut(&mut self, scope: Scope, now: u64) {
        self.measure(now);
        if scope.has(BoardKind::Metrology) && self.metrology.state != BoardState::Off {
            self.power_failures = self.power_failures.saturating_add(1);
        }
        for board in self.boards(scope) {
            board.state = BoardState::Off;
        }
    }

    /// Gives the boards their supply back; those without power boot.
    pub(crate) fn power_up(&mut self, scope: Scope, now: u64) {
        let boot_ms = self.boot_ms;
        for board in self.boards(scope) {
            if board.state == BoardState::Off {
                board.boot(now, boot_ms);
            }
        }
    }

    /// Restarts software without touching the supply: half the time of a cold boot.
    pub(crate) fn restart(&mut self, scope: Scope, now: u64) {
        self.measure(now);
        let boot_ms = self.boot_ms / 2;
        for board in self.boards(scope) {
            board.boot(now, boot_ms);
        }
    }

    /// Lets time pass until `now`; tells every phase the boards went through.
    pub(crate) fn advance(&mut self, now: u64) -> Vec<Phase> {
        self.measure(now);
        let mut phases = Vec::new();
        for board in self.boards(Scope::Both) {
            while let Some(next) = board.step(now) {
                board.state = next;
                phases.push(Phase {
                    board: board.kind,
                    phase: next.phase(),
                });
            }
        }
        phases
    }

    /// When `advance` has something to do next.
    pub(crate) fn due(&self) -> Option<u64> {
        [self.metrology.due(), self.comm.due()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn board(&self, kind: BoardKind) -> &Board {
        match kind {
            BoardKind::Metrology => &self.metrology,
            BoardKind::Comm => &self.comm,
        }
    }

    /// Seconds since the metrology board last started.
    pub(crate) fn uptime_s(&self, now: u64) -> u32 {
        let BoardState::Running { since } = self.metrology.state else {
            return 0;
        };
        u32::try_from(now.saturating_sub(since) / 1000).unwrap_or(u32::MAX)
    }

    pub(crate) fn led(&self) -> Led {
        let states = [self.metrology.state, self.comm.state];
        if states.contains(&BoardState::Panic) {
            Led::RapidStutter
        } else if self.metrology.state == BoardState::Off {
            Led::Dark
        } else if self.metrology.is_running() && self.comm.is_running() {
            Led::SlowPulse
        } else {
            Led::SolidRed
        }
    }

    fn boards(&mut self, scope: Scope) -> impl Iterator<Item = &mut Board> {
        [&mut self.metrology, &mut self.comm]
            .into_iter()
            .filter(move |board| scope.has(board.kind))
    }

    /// Adds the energy since the last call: a constant load behind a closed relay, seen by a running board.
    fn measure(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.metered_until);
        self.metered_until = self.metered_until.max(now);
        if self.relay.is_closed() && self.metrology.is_running() {
            // watt × ms / 3600 = mWh × 1000 / 1000
            self.import_mwh = self.import_mwh.saturating_add(LOAD_W * elapsed / 3600);
        }
    }
}

/// A constant load of 720 W is 0.2 mWh per millisecond: whole numbers for every 5 ms.
pub(crate) const LOAD_W: u64 = 720;
const METROLOGY_FIRMWARE: &str = "MET-2.4.1";
const COMM_FIRMWARE: &str = "COM-2.4.1";

#[cfg(test)]
mod tests;
