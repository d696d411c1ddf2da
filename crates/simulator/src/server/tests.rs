use std::time::Duration;

use dlms::{Data, Mechanism, Protection, Selection};
use kit::{ShutdownTrigger, Tasks};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use self::client::HeadEnd;
use super::*;
use crate::{Auth, Fleet, LabKeys, fleet_addresses, logs::code};

mod client;
mod keys;
mod transports;

const SCRIPTS: &str = "0.0.10.1.0.255";
const RELAY: &str = "0.0.96.3.10.255";
const LOAD: &str = "1.0.99.1.0.255";
const EVENTS: &str = "0.0.99.98.0.255";
const POWER_FAILURES: &str = "0.0.96.7.21.255";
const COUNTER: &str = "0.0.43.1.0.255";

/// A meter that runs until the test ends.
struct Rig {
    options: MeterOptions,
    address: SocketAddr,
    events: mpsc::Receiver<Event>,
    seen: Vec<Happening>,
    shutdown: ShutdownTrigger,
    tasks: Tasks,
}

impl Rig {
    async fn start(change: impl FnOnce(&mut MeterOptions)) -> Self {
        let mut options = crate::device::tests::options();
        options.boot_seconds = 0.2;
        change(&mut options);
        let server = MeterServer::bind(options.clone()).await.unwrap();
        let (trigger, shutdown) = kit::shutdown();
        let (sender, events) = mpsc::channel(256);
        let tasks = Tasks::new(shutdown.clone());
        let address = server.local_addr();
        tasks.spawn("meter", async move {
            server.run(sender, shutdown).await.unwrap()
        });
        Self {
            options,
            address,
            events,
            seen: Vec::new(),
            shutdown: trigger,
            tasks,
        }
    }

    async fn with_fault(fault: &str) -> Self {
        Self::start(|options| options.fault = Some(fault.parse().unwrap())).await
    }

    fn head_end(&self) -> HeadEnd {
        HeadEnd::new(self.address, &self.options.lab_keys)
    }

    /// Waits for an event.
    async fn until(&mut self, wanted: impl Fn(&Happening) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.seen.iter().any(&wanted) {
            let event = tokio::time::timeout_at(end, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("never happened, only {:?}", self.seen));
            self.seen.push(event.expect("the meter ended").what);
        }
    }

    /// Ends the meter and returns everything that happened.
    async fn end(mut self) -> Vec<Happening> {
        self.shutdown.fire();
        self.tasks.join().await;
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event.what);
        }
        self.seen
    }
}

fn executed(happened: &[Happening]) -> usize {
    happened
        .iter()
        .filter(|what| matches!(what, Happening::Reset { .. }))
        .count()
}

/// The number that an attribute holds.
async fn number(head_end: &mut HeadEnd, class_id: u16, name: &str, index: i8) -> u64 {
    let mut association = head_end.association().await;
    let value = association.get(class_id, name, index).await.unwrap();
    association.release().await;
    value.as_u64().expect("a number")
}

/// What a reset must not change, and what it must.
#[derive(Debug, PartialEq)]
struct Evidence {
    supplied: Data,
    power_failures: Data,
    codes: Vec<Data>,
    newest: Data,
}

async fn evidence(association: &mut client::Associated<'_>) -> Evidence {
    let entries = association.get(7, LOAD, 7).await.unwrap();
    let last = u32::try_from(entries.as_u64().unwrap()).unwrap();
    let newest = Selection::Entry {
        from_entry: last,
        to_entry: last,
        from_column: 1,
        to_column: 0,
    };
    let log = association.get(7, EVENTS, 2).await.unwrap();
    let code = |row: &Data| row.as_elements().unwrap()[1].clone();
    Evidence {
        supplied: association.get(70, RELAY, 2).await.unwrap(),
        power_failures: association.get(1, POWER_FAILURES, 2).await.unwrap(),
        codes: log.as_elements().unwrap().iter().map(code).collect(),
        newest: association.select(7, LOAD, 2, Some(newest)).await.unwrap(),
    }
}

#[tokio::test]
async fn a_cold_reset_from_the_guard_to_the_validation() {
    for protection in [Protection::Glo, Protection::GeneralGlo] {
        let mut rig = Rig::start(|options| options.disconnected = true).await;
        let mut head_end = rig.head_end();
        head_end.config.protection = protection;

        let mut association = head_end.association().await;
        let before = evidence(&mut association).await;
        assert_eq!(before.supplied, Data::Boolean(false));
        assert_eq!(
            association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await,
            Some(0)
        );
        association.closed().await;
        rig.until(|what| {
            matches!(
                what,
                Happening::Boot {
                    phase: "bootloader",
                    ..
                }
            )
        })
        .await;
        rig.until(|what| matches!(what, Happening::Rejoin { .. }))
            .await;
        rig.until(|what| {
            matches!(
                what,
                Happening::Led {
                    state: "slow_pulse"
                }
            )
        })
        .await;

        let mut association = rejoin(&mut head_end).await;
        let after = evidence(&mut association).await;
        association.release().await;
        let expected = Evidence {
            power_failures: Data::DoubleLongUnsigned(1),
            codes: [code::POWER_DOWN, code::POWER_UP]
                .map(Data::LongUnsigned)
                .to_vec(),
            ..before
        };
        assert_eq!(after, expected);

        let happened = rig.end().await;
        assert_eq!(executed(&happened), 1);
        assert!(
            !happened
                .iter()
                .any(|what| matches!(what, Happening::Relay { moved: true, .. }))
        );
    }
}

/// Tries until the meter is there again.
async fn rejoin(head_end: &mut HeadEnd) -> client::Associated<'_> {
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(head_end.address()).await.is_err() {
        assert!(Instant::now() < end, "the meter did not come back");
        tokio::task::yield_now().await;
    }
    head_end.association().await
}

#[tokio::test]
async fn nothing_listens_while_the_meter_boots() {
    let mut rig = Rig::start(|options| options.boot_seconds = 3_000.0).await;
    let mut head_end = rig.head_end();
    let mut association = head_end.association().await;
    association.act(9, SCRIPTS, 1, Data::LongUnsigned(2)).await;
    association.closed().await;
    rig.until(|what| matches!(what, Happening::Disconnected { .. }))
        .await;
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(rig.address).await.is_ok() {
        assert!(Instant::now() < end, "the meter still listens");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        executed(&rig.end().await),
        1,
        "it ends in the middle of its boot"
    );
}

#[tokio::test]
async fn a_soft_reset_ends_the_association_and_no_board() {
    let rig = Rig::start(|_| ()).await;
    let mut head_end = rig.head_end();
    let mut association = head_end.association().await;
    assert_eq!(
        association.act(9, SCRIPTS, 1, Data::LongUnsigned(1)).await,
        Some(0)
    );
    association.closed().await;
    assert_eq!(number(&mut head_end, 1, POWER_FAILURES, 2).await, 0);
    let happened = rig.end().await;
    assert_eq!(executed(&happened), 1);
    assert!(
        !happened
            .iter()
            .any(|what| matches!(what, Happening::Boot { .. }))
    );
}

#[tokio::test]
async fn the_public_client_reads_the_last_counter_in_clear() {
    let rig = Rig::start(|_| ()).await;
    let mut head_end = rig.head_end();
    let mut public = rig.head_end().plain(16, Mechanism::None, &[]);
    assert_eq!(number(&mut public, 1, COUNTER, 2).await, 0);
    head_end.association().await.release().await;
    let last = u64::from(head_end.spent());
    assert_eq!(
        number(&mut public, 1, COUNTER, 2).await,
        last,
        "the last one used, not the next"
    );
    let mut association = public.association().await;
    assert_eq!(association.get(70, RELAY, 2).await, Err(3));
    assert_eq!(
        association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await,
        Some(3)
    );
    drop(association);
    assert_eq!(executed(&rig.end().await), 0);
}

#[tokio::test]
async fn plain_contexts_serve_laboratories() {
    for (auth, mechanism) in [(Auth::None, Mechanism::None), (Auth::Low, Mechanism::Low)] {
        let rig = Rig::start(|options| options.auth = auth).await;
        let password = if auth == Auth::Low {
            rig.options.lab_keys.password()
        } else {
            &[]
        };
        let mut head_end = rig.head_end().plain(1, mechanism, password);
        assert_eq!(number(&mut head_end, 1, POWER_FAILURES, 2).await, 0);
        let mut wrong = rig.head_end().plain(1, Mechanism::Low, b"wrong");
        assert!(wrong.open().await.is_err());
        assert!(
            rig.head_end().open().await.is_err(),
            "no ciphered context here"
        );
    }
}

#[tokio::test]
async fn a_management_client_without_keys_gets_no_association() {
    let rig = Rig::start(|_| ()).await;
    for mut stranger in [
        rig.head_end().plain(1, Mechanism::None, &[]),
        rig.head_end()
            .plain(1, Mechanism::Low, rig.options.lab_keys.password()),
        rig.head_end().plain(5, Mechanism::None, &[]),
        HeadEnd::new(rig.address, &LabKeys::generate(|octets| octets.fill(7))),
    ] {
        assert!(stranger.open().await.is_err());
    }
    assert!(rig.head_end().open().await.is_ok());
}

#[tokio::test]
async fn long_values_come_in_blocks() {
    let rig = Rig::start(|_| ()).await;
    let mut head_end = rig.head_end();
    head_end.config.max_pdu = 200;
    let mut association = head_end.association().await;
    let list = association.get(15, "0.0.40.0.0.255", 2).await.unwrap();
    assert!(list.encode().len() > 4 * 200);
    let buffer = association.get(7, LOAD, 2).await.unwrap();
    assert_eq!(buffer.as_elements().unwrap().len(), 96);
}

#[tokio::test]
async fn a_lost_answer_and_a_lost_request_look_alike_and_are_not() {
    for (fault, resets) in [
        ("lost-ack", 1),
        ("lost-request", 0),
        ("reboot-before-ack", 1),
    ] {
        let mut rig = Rig::with_fault(fault).await;
        let mut head_end = rig.head_end();
        let mut association = head_end.association().await;
        let answer = association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await;
        assert_eq!(answer, None, "{fault}");
        drop(association);
        let spent = u64::from(head_end.spent());
        rig.until(|what| matches!(what, Happening::Disconnected { .. }))
            .await;
        if resets > 0 {
            rig.until(|what| matches!(what, Happening::Rejoin { .. }))
                .await;
        }
        rejoin(&mut head_end).await.release().await;
        assert_eq!(
            number(&mut head_end, 1, POWER_FAILURES, 2).await,
            resets,
            "{fault}"
        );
        let happened = rig.end().await;
        assert_eq!(
            executed(&happened),
            usize::try_from(resets).unwrap(),
            "{fault}"
        );
        // by its counters at the disconnection the meter tells the two apart
        let Some(Happening::Counters { client, .. }) = happened
            .iter()
            .skip_while(|what| !matches!(what, Happening::Disconnected { .. }))
            .find(|what| matches!(what, Happening::Counters { .. }))
        else {
            panic!("no counters")
        };
        assert_eq!(u64::from(*client) == spent, resets == 1, "{fault}");
    }
}

#[tokio::test]
async fn refusals_of_a_reset_reach_the_client() {
    for (fault, script, expected) in [
        ("temporary-failure", 3, 2),
        ("fota-busy", 3, 2),
        ("no-reboot", 3, 0),
        ("slow=30", 9, 4),
    ] {
        let rig = Rig::with_fault(fault).await;
        let mut head_end = rig.head_end();
        let mut association = head_end.association().await;
        let answer = association
            .act(9, SCRIPTS, 1, Data::LongUnsigned(script))
            .await;
        assert_eq!(answer, Some(expected), "{fault}");
        assert_eq!(
            association.get(1, POWER_FAILURES, 2).await,
            Ok(Data::DoubleLongUnsigned(0))
        );
        drop(association);
        assert_eq!(executed(&rig.end().await), 0, "{fault}");
    }
}

#[tokio::test]
async fn a_rolled_back_counter_hides_an_execution() {
    let mut rig = Rig::with_fault("counter-rollback").await;
    let mut head_end = rig.head_end();
    let mut association = head_end.association().await;
    assert_eq!(
        association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await,
        Some(0)
    );
    association.closed().await;
    rig.until(|what| matches!(what, Happening::Rejoin { .. }))
        .await;
    rejoin(&mut rig.head_end().plain(16, Mechanism::None, &[]))
        .await
        .release()
        .await;
    let mut public = rig.head_end().plain(16, Mechanism::None, &[]);
    let shown = number(&mut public, 1, COUNTER, 2).await;
    assert!(shown < u64::from(head_end.spent()));
    assert_eq!(
        number(&mut head_end, 1, POWER_FAILURES, 2).await,
        1,
        "but it was executed"
    );
}

#[tokio::test]
async fn a_session_survives_a_reset_of_the_metrology_board_alone() {
    let mut rig = Rig::with_fault("partial-metrology-only").await;
    let mut head_end = rig.head_end();
    let mut association = head_end.association().await;
    assert_eq!(
        association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await,
        Some(0)
    );
    rig.until(|what| {
        matches!(
            what,
            Happening::Boot {
                board: "metrology",
                phase: "running",
                ..
            }
        )
    })
    .await;
    assert_eq!(
        association.get(1, POWER_FAILURES, 2).await,
        Ok(Data::DoubleLongUnsigned(1))
    );
}

#[tokio::test]
async fn a_stuck_association_wears_off() {
    let rig = Rig::with_fault("stuck-association=2").await;
    let mut head_end = rig.head_end();
    for _ in 0..2 {
        let why = format!("{:?}", head_end.open().await.err());
        assert!(why.contains("Exception"), "the meter says why: {why}");
    }
    assert!(head_end.open().await.is_ok());
}

#[tokio::test]
async fn garbage_and_idle_connections_are_closed_and_others_served() {
    let mut rig = Rig::start(|options| options.idle_seconds = 0.2).await;
    let mut garbage = TcpStream::connect(rig.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    rig.until(|what| matches!(what, Happening::Dropped { what: "frame", .. }))
        .await;
    let idle = TcpStream::connect(rig.address).await.unwrap();
    rig.until(|what| matches!(what, Happening::Disconnected { reason: "idle" }))
        .await;
    drop((garbage, idle));
    assert!(rig.head_end().open().await.is_ok());
}

#[tokio::test]
async fn a_restarted_meter_keeps_its_counters() {
    let folder = tempfile::tempdir().unwrap();
    let file = Some(folder.path().join("meter.json"));
    let rig = Rig::start(|options| options.state_file.clone_from(&file)).await;
    let mut head_end = rig.head_end();
    head_end.association().await.release().await;
    let spent = head_end.cipher.counters();
    let address = rig.address;
    rig.end().await;

    let rig = Rig::start(|options| {
        options.state_file = file;
        options.listen = address;
    })
    .await;
    let mut stale = rig.head_end();
    assert!(stale.open().await.is_err(), "counters of before");
    let mut head_end = rig.head_end();
    head_end.cipher.resume(spent);
    assert!(
        head_end.open().await.is_ok(),
        "the meter's own counter rose, too"
    );
}

#[tokio::test]
async fn two_hundred_meters_live_in_one_process() {
    let addresses = fleet_addresses("127.77.0.1:0".parse().unwrap(), 200).unwrap();
    let options: Vec<MeterOptions> = (1_u8..)
        .zip(&addresses)
        .map(|(number, listen)| {
            let keys = LabKeys::generate(|octets| {
                for (at, octet) in (0_u8..).zip(octets) {
                    *octet = number ^ at.rotate_left(3);
                }
            });
            MeterOptions {
                boot_seconds: 0.1,
                ..MeterOptions::new(*listen, keys)
            }
        })
        .collect();
    let fleet = Fleet::bind(options.clone()).await.unwrap();
    let addresses = fleet.addresses();
    let (trigger, shutdown) = kit::shutdown();
    let (sender, mut events) = mpsc::channel(1024);
    let tasks = Tasks::new(shutdown.clone());
    tasks.spawn("fleet", async move {
        fleet.run(sender, shutdown).await.unwrap()
    });

    let mut head_ends: Vec<HeadEnd> = options
        .iter()
        .zip(&addresses)
        .map(|(options, address)| HeadEnd::new(*address, &options.lab_keys))
        .collect();
    for head_end in &mut head_ends {
        let mut association = head_end.association().await;
        assert_eq!(
            association.act(9, SCRIPTS, 1, Data::LongUnsigned(3)).await,
            Some(0)
        );
        while events.try_recv().is_ok() {}
    }
    for head_end in &mut head_ends {
        let mut association = rejoin(head_end).await;
        assert_eq!(
            association.get(1, POWER_FAILURES, 2).await,
            Ok(Data::DoubleLongUnsigned(1))
        );
        while events.try_recv().is_ok() {}
    }
    trigger.fire();
    tasks.join().await;
}
