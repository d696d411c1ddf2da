//! A meter on a foreign stack: `dlms-cosem-rs` does the DLMS, this file only the objects and the physics.
//!
//! It serves its management client as a [`Way`] says and the bare invocation counter to the public client (SAP 16). A cold
//! reset takes it away for a while, counts a power failure and logs 1 and 2.

mod wire;

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dlms::Data;
use dlms_cosem_rs::{
    acse::AuthMechanism,
    axdr,
    codec::{self, Writer},
    cosem::{AttributeAccess, MethodAccess},
    obis::Obis,
    security::{
        KeyRing, RandomSource, RustCryptoProvider, Secret, SecurityPolicy, SecuritySuite,
        SystemTitle,
    },
    server::{ObjectStore, Server, ServerConfig, StoreResult},
    xdlms::{ActionResult, DataAccessResult, SelectiveAccess},
};

use wire::House;

/// Keys and titles of the foreign meter.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// Encryption key.
    pub ek: [u8; 16],
    /// Authentication key.
    pub ak: [u8; 16],
    /// Title of the client.
    pub client_system_title: [u8; 8],
    /// Title of the meter.
    pub server_system_title: [u8; 8],
}

/// How a foreign meter talks to its management client.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// How APDUs travel.
    pub transport: Transport,
    /// How it authenticates.
    pub auth: Auth,
    /// Keys and titles.
    pub keys: Keys,
}

/// How APDUs travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The wrapper over TCP.
    Tcp,
    /// The wrapper over UDP.
    Udp,
    /// HDLC over TCP.
    Hdlc,
}

/// How the management client authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Not at all, in clear.
    None,
    /// By this password, in clear.
    Low(&'static [u8]),
    /// HLS5, ciphered.
    Gmac,
}

/// What a foreign meter has been through.
#[derive(Debug, Clone)]
pub struct Life {
    /// Scripts executed, in order.
    pub executed: Vec<u16>,
    /// Disconnect or reconnect methods invoked: must stay empty.
    pub relay_commands: Vec<i8>,
    /// Whether the relay is closed (premises supplied).
    pub relay_closed: bool,
    /// Power failures counted.
    pub power_failures: u16,
    events: Vec<(u64, u8)>,
    booting_until: Option<Instant>,
    started: Instant,
    client_counter: u32,
    server_counter: u32,
}

/// A running foreign meter.
#[derive(Debug)]
pub struct ForeignMeter {
    /// Where it listens.
    pub address: SocketAddr,
    life: Arc<Mutex<Life>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

const BOOT: Duration = Duration::from_millis(1500);
const LOAD_ENTRIES: u32 = 96;
const MANUFACTURED: u64 = 1_780_000_000;

impl ForeignMeter {
    /// Starts one with HLS5 over TCP.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start(address: SocketAddr, keys: Keys, relay_closed: bool) -> io::Result<Self> {
        let way = Way {
            transport: Transport::Tcp,
            auth: Auth::Gmac,
            keys,
        };
        Self::start_as(address, way, relay_closed)
    }

    /// Starts one.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start_as(address: SocketAddr, way: Way, relay_closed: bool) -> io::Result<Self> {
        let life = Arc::new(Mutex::new(Life {
            executed: Vec::new(),
            relay_commands: Vec::new(),
            relay_closed,
            power_failures: 4,
            events: vec![(MANUFACTURED, 2)],
            booting_until: None,
            started: Instant::now(),
            client_counter: 0,
            server_counter: 0,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let house = House {
            way,
            life: life.clone(),
            stop: stop.clone(),
        };
        let (address, server) = match way.transport {
            Transport::Udp => {
                let socket = UdpSocket::bind(address)?;
                socket.set_read_timeout(Some(Duration::from_millis(50)))?;
                let address = socket.local_addr()?;
                let serve = move || wire::serve_udp(&socket, &house);
                (address, std::thread::spawn(serve))
            }
            Transport::Tcp | Transport::Hdlc => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                let hdlc = way.transport == Transport::Hdlc;
                let serve = move || wire::accept(&listener, &house, hdlc);
                (address, std::thread::spawn(serve))
            }
        };
        Ok(Self {
            address,
            life,
            stop,
            server: Some(server),
        })
    }

    /// What it has been through so far.
    #[must_use]
    pub fn life(&self) -> Life {
        lock(&self.life).clone()
    }
}

impl Drop for ForeignMeter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}

fn booting(life: &Mutex<Life>) -> bool {
    lock(life)
        .booting_until
        .is_some_and(|until| Instant::now() < until)
}

type Engine = Server<Objects, RustCryptoProvider<Challenge>, 8192>;

/// The associations of one connection: one of each client.
struct Engines {
    public: Engine,
    management: Engine,
    life: Arc<Mutex<Life>>,
}

impl Engines {
    fn new(house: &House) -> Self {
        Self {
            public: engine(house, true),
            management: engine(house, false),
            life: house.life.clone(),
        }
    }

    fn answer(&mut self, client: u16, apdu: &[u8]) -> io::Result<Vec<u8>> {
        let engine = if client == 16 {
            &mut self.public
        } else {
            &mut self.management
        };
        let mut out = [0_u8; 4096];
        let reply = engine.handle(apdu, &mut out).map_err(io::Error::other)?;
        let mut life = lock(&self.life);
        life.server_counter = self.management.invocation_counter();
        if let Some(highest) = self.management.peer_invocation_counter() {
            life.client_counter = highest;
        }
        Ok(out[..reply].to_vec())
    }
}

fn engine(house: &House, public: bool) -> Engine {
    let (keys, life) = (house.way.keys, &house.life);
    let objects = Objects {
        life: life.clone(),
        public,
    };
    let auth = if public { Auth::None } else { house.way.auth };
    let clear = (SecurityPolicy::NONE, KeyRing::default());
    let (mechanism, password, (security, ring)) = match auth {
        Auth::None => (AuthMechanism::None, None, clear),
        Auth::Low(password) => (AuthMechanism::Low, Secret::new(password).ok(), clear),
        Auth::Gmac => {
            let policy = SecurityPolicy::authenticated_encrypted(SecuritySuite::Suite0);
            let ring = KeyRing::new(keys.ek, keys.ak);
            (AuthMechanism::HighGmac, None, (policy, ring))
        }
    };
    let (sent, received) = {
        let life = lock(life);
        (life.server_counter, life.client_counter)
    };
    let config = ServerConfig {
        system_title: Some(SystemTitle::new(keys.server_system_title)),
        mechanism,
        password,
        security,
        max_pdu_size: 1024,
        invocation_counter: sent,
        ..ServerConfig::default()
    };
    let mut server = Server::new(
        config,
        objects,
        RustCryptoProvider::with_rng(ring, Challenge),
    );
    if !public && received > 0 {
        server.resume_replay_window(SystemTitle::new(keys.client_system_title), received);
    }
    server
}

struct Challenge;

impl RandomSource for Challenge {
    fn fill(&self, out: &mut [u8]) -> codec::Result<()> {
        aws_lc_rs::rand::fill(out).map_err(|_| codec::Error::new(codec::ErrorKind::InvalidValue, 0))
    }
}

struct Objects {
    life: Arc<Mutex<Life>>,
    public: bool,
}

impl Objects {
    fn read(
        &self,
        class_id: u16,
        name: [u8; 6],
        index: i8,
        access: Option<SelectiveAccess<'_>>,
    ) -> StoreResult<Data> {
        let life = lock(&self.life);
        let text = |text: &str| Data::OctetString(text.as_bytes().to_vec());
        Ok(match (class_id, name, index) {
            (_, name, 1) => Data::OctetString(name.to_vec()),
            (1, [0, 0, 42, 0, 0, 255], 2) => text("FRNMETER00000001"),
            (1, [1, 0, 0, 2, 0, 255], 2) => text("M1.4.2"),
            (1, [1, 2, 0, 2, 0, 255], 2) => text("C2.0.7"),
            (1, [0, 0, 43, 1, 0, 255], 2) => Data::DoubleLongUnsigned(life.client_counter),
            (1, [0, 0, 96, 7, 21, 255], 2) => Data::LongUnsigned(life.power_failures),
            (3, [0, 0, 96, 8, 0, 255], 2) => {
                Data::DoubleLongUnsigned(seconds(life.started.elapsed()))
            }
            (8, [0, 0, 1, 0, 0, 255], 2) => Data::OctetString(date_time(now()).to_vec()),
            (8, [0, 0, 1, 0, 0, 255], 4) => Data::Unsigned(0),
            (18, [0, 0, 44, 0, 0, 255], 6) => Data::Enum(0),
            (70, [0, 0, 96, 3, 10, 255], 2) => Data::Boolean(life.relay_closed),
            (70, [0, 0, 96, 3, 10, 255], 3) => Data::Enum(u8::from(life.relay_closed)),
            (70, [0, 0, 96, 3, 10, 255], 4) => Data::Enum(4),
            (7, [0, 0, 99, 98, 0, 255], 2) => select(events(&life), access)?,
            (7, [0, 0, 99, 98, 0, 255], 7) => {
                Data::DoubleLongUnsigned(u32::try_from(life.events.len()).unwrap_or(0))
            }
            (7, [1, 0, 99, 1, 0, 255], 2) => select(load_profile(), access)?,
            (7, [1, 0, 99, 1, 0, 255], 7) => Data::DoubleLongUnsigned(LOAD_ENTRIES),
            _ => return Err(DataAccessResult::ObjectUndefined),
        })
    }
}

impl ObjectStore for Objects {
    fn get_attribute(
        &self,
        class_id: u16,
        logical_name: Obis,
        attribute_id: i8,
        selective_access: Option<SelectiveAccess<'_>>,
        w: &mut dyn Writer,
    ) -> StoreResult<()> {
        let value = self.read(
            class_id,
            octets(&logical_name),
            attribute_id,
            selective_access,
        )?;
        w.write_bytes(&value.encode())
            .map_err(|_| DataAccessResult::OtherReason)
    }

    fn invoke_method(
        &mut self,
        class_id: u16,
        logical_name: Obis,
        method_id: i8,
        parameters: Option<axdr::Data<'_>>,
        _w: &mut dyn Writer,
    ) -> Result<bool, ActionResult> {
        let mut life = lock(&self.life);
        match (class_id, octets(&logical_name), method_id, parameters) {
            (9, [0, 0, 10, 1, 0, 255], 1, Some(axdr::Data::LongUnsigned(script @ 1..=3))) => {
                life.executed.push(script);
                if script == 3 {
                    let time = now();
                    life.power_failures = life.power_failures.saturating_add(1);
                    life.events.extend([(time, 1), (time, 2)]);
                    life.booting_until = Some(Instant::now() + BOOT);
                    life.started = Instant::now() + BOOT;
                }
                Ok(false)
            }
            (70, [0, 0, 96, 3, 10, 255], method, _) => {
                life.relay_commands.push(method);
                life.relay_closed = method == 2;
                Ok(false)
            }
            _ => Err(ActionResult::ObjectUndefined),
        }
    }

    fn attribute_access(&self, _: u16, logical_name: Obis, _: i8) -> AttributeAccess {
        if self.public && octets(&logical_name) != [0, 0, 43, 1, 0, 255] {
            return AttributeAccess::empty();
        }
        AttributeAccess::READ
    }

    fn method_access(&self, _: u16, _: Obis, _: i8) -> MethodAccess {
        if self.public {
            MethodAccess::empty()
        } else {
            MethodAccess::ACCESS
        }
    }
}

fn octets(name: &Obis) -> [u8; 6] {
    *name.as_bytes()
}

fn events(life: &Life) -> Vec<Data> {
    let row = |(time, code): &(u64, u8)| {
        Data::Structure(vec![
            Data::OctetString(date_time(*time).to_vec()),
            Data::Unsigned(*code),
        ])
    };
    life.events.iter().map(row).collect()
}

fn load_profile() -> Vec<Data> {
    let newest = now() / 900 * 900;
    (0..LOAD_ENTRIES)
        .map(|entry| {
            let age = u64::from(LOAD_ENTRIES - 1 - entry) * 900;
            let time = Data::OctetString(date_time(newest - age).to_vec());
            Data::Structure(vec![
                time,
                Data::Unsigned(0),
                Data::DoubleLongUnsigned(1_000_000 + entry),
            ])
        })
        .collect()
}

/// Entry descriptor (selector 2): entries and columns from one; a `to` of zero means the last.
fn select(rows: Vec<Data>, access: Option<SelectiveAccess<'_>>) -> StoreResult<Data> {
    let Some(access) = access else {
        return Ok(Data::Array(rows));
    };
    if access.selector != 2 {
        return Err(DataAccessResult::ScopeOfAccessViolated);
    }
    let fields = access
        .parameters
        .as_structure()
        .ok_or(DataAccessResult::TypeUnmatched)?;
    let field = |at| {
        let value = fields.get(at).ok().and_then(|value| value.as_u64());
        value
            .and_then(|value| usize::try_from(value).ok())
            .ok_or(DataAccessResult::TypeUnmatched)
    };
    let (from, to, first, last) = (field(0)?, field(1)?, field(2)?, field(3)?);
    let end = |to: usize, len: usize| if to == 0 { len } else { to.min(len) };
    let start = |from: usize| from.saturating_sub(1);
    let to = end(to, rows.len());
    let picked = rows
        .into_iter()
        .take(to)
        .skip(start(from))
        .map(|row| match row {
            Data::Structure(columns) => {
                let last = end(last, columns.len());
                Data::Structure(columns.into_iter().take(last).skip(start(first)).collect())
            }
            other => other,
        });
    Ok(Data::Array(picked.collect()))
}

fn now() -> u64 {
    kit::clock::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn seconds(elapsed: Duration) -> u32 {
    u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
}

/// COSEM date-time of 12 octets, UTC (Blue Book 4.1.6.1).
fn date_time(unix: u64) -> [u8; 12] {
    let (days, time) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    let [high, low] = year.to_be_bytes();
    let weekday = u8::try_from((days + 3) % 7 + 1).unwrap_or(0xFF);
    let part = |n: u64| u8::try_from(n).unwrap_or(0xFF);
    [
        high,
        low,
        month,
        day,
        weekday,
        part(time / 3600),
        part(time / 60 % 60),
        part(time % 60),
        0,
        0,
        0,
        0,
    ]
}

/// Year, month and day of a count of days since 1970-01-01.
fn civil(mut days: u64) -> (u16, u8, u8) {
    let leap = |year: u16| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970_u16;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1_u8;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, u8::try_from(days + 1).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // 2024-02-29 12:30:15 UTC, a Thursday.
        assert_eq!(
            date_time(1_709_209_815),
            [0x07, 0xE8, 2, 29, 4, 12, 30, 15, 0, 0, 0, 0]
        );
    }
}
