//! The association service and the meter behind it, in one.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use dlms::{Data, Selection};
use kit::status::Fault;
use latchkey_proto::{
    association::v1::{
        CommandFit, CommandResult, Delivery, Fit, InvokeListRequest, InvokeListResponse,
        InvokeRequest, InvokeResponse, ListForm, OpenAssociationRequest, OpenAssociationResponse,
        PlanAssociationRequest, PlanAssociationResponse, ReleaseAssociationRequest,
        ReleaseAssociationResponse, RotateKeysRequest, RotateKeysResponse,
        association_service_server::AssociationService,
    },
    audit::v1::{Command, CommandService, Permit, Purpose},
    custody::v1::{Rotation, RotationState},
};
use prost::Message as _;
use tonic::{Code, Request, Response, Status};

/// How long the meter is silent after a reset.
const BOOT: Duration = Duration::from_millis(600);

/// What happens to one ACTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// Executed, and the answer lost.
    AnswerLost,
    /// Lost on its way.
    RequestLost,
    /// The connection to the association service breaks; executed or not.
    Broken { executed: bool },
    /// The association service hangs; executed or not.
    Hang { executed: bool },
    /// It says that it sent nothing.
    NotSent,
    /// The meter answers with this result.
    Result(u32),
    /// The meter says yes and does nothing.
    Ignored,
    /// The reset moves the relay.
    RelayMoves,
    /// The reset loses the older half of the event log.
    EventsLost,
    /// The reset loses the load profile.
    DataLost,
    /// The meter says yes, executed or not, and the association service forgets every association.
    Forgotten { executed: bool },
    /// Only the metrology board restarts.
    MetrologyOnly,
    /// The meter says "later", and executes it all the same.
    Later,
}

/// What an attempt to change keys comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Custody says this, and the meter answered this.
    Told(RotationState, u32),
    /// The connection breaks.
    Broken,
    /// The association service, or custody, says no.
    Refused(Code, &'static str),
}

/// What the meter does with lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lists {
    /// It does not grant them.
    NotGranted,
    /// It grants and answers them.
    Answered,
    /// It grants them, and ends the association on the first.
    Choked,
}

/// Everything about the one meter.
pub(crate) struct World {
    pub(crate) strikes: VecDeque<Strike>,
    pub(crate) executed: u32,
    pub(crate) acts: Vec<Command>,
    /// What attempts to change keys come to, and how often there was one; the last for ever.
    pub(crate) rotations: VecDeque<Turn>,
    pub(crate) turns: u32,
    pub(crate) acted_under: BTreeSet<String>,
    pub(crate) relay_closed: bool,
    pub(crate) image_transfer: u8,
    /// What the meter does with lists.
    pub(crate) lists: Lists,
    /// How the act would cross the link.
    pub(crate) fit: Fit,
    /// Questions asked, lists as one.
    pub(crate) questions: u32,
    /// Refuse every association, as a silent meter does.
    pub(crate) silent: bool,
    /// How long it is silent after a reset.
    pub(crate) boot: Duration,
    /// After the reset its permit does not cover this attribute, as if an older version had asked for it.
    pub(crate) uncovered: Option<(&'static str, i32)>,
    /// After the reset this object cannot be read the first time.
    pub(crate) blink: Option<&'static str>,
    power_failures: u32,
    started: Instant,
    booting_until: Instant,
    pub(crate) events: Vec<u16>,
    entries: u32,
    counter: u32,
    associations: HashMap<String, Session>,
    /// Those that the meter ended.
    closed: HashSet<String>,
    next: u32,
}

struct Session {
    permit: Permit,
    public_client: bool,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<World>>);

#[derive(Debug, thiserror::Error)]
#[error("{reason}: as the test wants it")]
struct Refusal {
    code: Code,
    reason: &'static str,
}

impl Fault for Refusal {
    fn code(&self) -> Code {
        self.code
    }
    fn reason(&self) -> &'static str {
        self.reason
    }
}

pub(crate) fn refuse(code: Code, reason: &'static str) -> Status {
    kit::status::status(&Refusal { code, reason })
}

impl Fake {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(World {
            strikes: VecDeque::new(),
            executed: 0,
            acts: Vec::new(),
            rotations: [Turn::Told(RotationState::Active, 0)].into(),
            turns: 0,
            acted_under: BTreeSet::new(),
            relay_closed: true,
            image_transfer: 0,
            lists: Lists::NotGranted,
            fit: Fit::OneFrame,
            questions: 0,
            silent: false,
            boot: BOOT,
            uncovered: None,
            blink: None,
            power_failures: 3,
            // The meter has been running for a while; tests may not.
            started: now.checked_sub(Duration::from_secs(1000)).unwrap_or(now),
            booting_until: now,
            events: vec![1, 2],
            entries: 96,
            counter: 1000,
            associations: HashMap::new(),
            closed: HashSet::new(),
            next: 0,
        })))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("not poisoned")
    }
}

impl World {
    fn is_away(&self) -> bool {
        self.silent || Instant::now() < self.booting_until
    }

    fn open(&mut self, request: &OpenAssociationRequest) -> Result<String, Status> {
        let permit = request.permit.as_ref().expect("a permit is presented");
        let permit = Permit::decode(permit.body.as_slice()).expect("a permit");
        assert_eq!(
            permit.meter_id, request.meter_id,
            "a permit of another meter"
        );
        if !self.associations.is_empty() {
            // The same holder takes over; the old association says goodbye, which spends a counter.
            self.associations.clear();
            self.counter += u32::from(!self.is_away());
        }
        if self.is_away() {
            return Err(refuse(Code::Unavailable, "METER_UNREACHABLE"));
        }
        if !request.public_client {
            self.counter += 4;
        }
        self.next += 1;
        let id = format!("association-{}", self.next);
        let public_client = request.public_client;
        self.associations.insert(
            id.clone(),
            Session {
                permit,
                public_client,
            },
        );
        Ok(id)
    }

    fn covered(&self, id: &str, command: &Command) -> Result<bool, Status> {
        let session = self.associations.get(id);
        let session = session.ok_or_else(|| {
            let closed = self.closed.contains(id);
            refuse(
                Code::NotFound,
                if closed {
                    "ASSOCIATION_CLOSED_BY_METER"
                } else {
                    "ASSOCIATION_GONE"
                },
            )
        })?;
        let older = self.executed > 0
            && session.permit.purpose() == Purpose::Reset
            && self.uncovered == Some((command.logical_name.as_str(), command.index));
        if older || !session.permit.commands.contains(command) {
            return Err(refuse(Code::PermissionDenied, "APDU_NOT_PERMITTED"));
        }
        Ok(session.public_client)
    }

    fn get(&mut self, id: &str, command: &Command) -> Result<InvokeResponse, Status> {
        let public = self.covered(id, command)?;
        self.questions += 1;
        if self.is_away() {
            self.associations.remove(id);
            return Ok(unknown("time-out", 0));
        }
        if !public {
            self.counter += 1;
        }
        Ok(self.read(command, public))
    }

    /// One counter, however many commands.
    fn get_list(&mut self, id: &str, commands: &[Command]) -> Result<InvokeListResponse, Status> {
        for command in commands {
            assert!(
                !self.covered(id, command)?,
                "the public client asks for one thing"
            );
        }
        if self.lists == Lists::NotGranted {
            return Err(refuse(Code::FailedPrecondition, "SERVICE_NOT_GRANTED"));
        }
        self.questions += 1;
        if self.is_away() || self.lists == Lists::Choked {
            self.associations.remove(id);
            return Ok(InvokeListResponse {
                delivery: Delivery::Unknown.into(),
                cause: "time-out".to_owned(),
                ..InvokeListResponse::default()
            });
        }
        self.counter += 1;
        let results = commands.iter().map(|command| {
            let one = self.read(command, false);
            CommandResult {
                result: one.result,
                data: one.data,
            }
        });
        Ok(InvokeListResponse {
            delivery: Delivery::Answered.into(),
            results: results.collect(),
            invocation_counter: self.counter,
            ..InvokeListResponse::default()
        })
    }

    fn read(&mut self, command: &Command, public: bool) -> InvokeResponse {
        let blinks = self.executed > 0 && self.blink == Some(command.logical_name.as_str());
        let data = match blinks {
            true => self.blink.take().and(None),
            false => self.value(command),
        };
        InvokeResponse {
            delivery: Delivery::Answered.into(),
            result: if data.is_some() { 0 } else { 4 },
            data: data.map(|data| data.encode()).unwrap_or_default(),
            invocation_counter: if public { 0 } else { self.counter },
            ..InvokeResponse::default()
        }
    }

    fn value(&self, command: &Command) -> Option<Data> {
        let text = |text: &str| Data::OctetString(text.as_bytes().to_vec());
        Some(match (command.logical_name.as_str(), command.index) {
            ("0.0.42.0.0.255", 2) => text("LKM0000000001"),
            ("0.0.44.0.0.255", 6) => Data::Enum(self.image_transfer),
            ("1.0.0.2.0.255", 2) => text("MET-2.4.1"),
            ("1.2.0.2.0.255", 2) => text("COM-2.4.1"),
            ("0.0.96.7.21.255", 2) => Data::DoubleLongUnsigned(self.power_failures),
            ("0.0.96.8.0.255", 2) => Data::DoubleLongUnsigned(self.uptime()),
            ("0.0.1.0.0.255", 2) => Data::OctetString(clock()),
            ("0.0.1.0.0.255", 4) => Data::Unsigned(0),
            ("0.0.96.3.10.255", 2) => Data::Boolean(self.relay_closed),
            ("0.0.96.3.10.255", 3) => Data::Enum(u8::from(self.relay_closed)),
            ("0.0.96.3.10.255", 4) => Data::Enum(4),
            ("0.0.43.1.0.255", 2) => Data::DoubleLongUnsigned(self.counter),
            ("0.0.99.98.0.255", 7) => {
                Data::DoubleLongUnsigned(u32::try_from(self.events.len()).ok()?)
            }
            ("0.0.99.98.0.255", 2) => self.rows(command, &self.events),
            ("1.0.99.1.0.255", 7) => Data::DoubleLongUnsigned(self.entries),
            ("1.0.99.1.0.255", 2) => {
                self.rows(command, &vec![0; usize::try_from(self.entries).ok()?])
            }
            _ => return None,
        })
    }

    fn rows(&self, command: &Command, codes: &[u16]) -> Data {
        let selection = Selection::decode(&command.selection).expect("a selection");
        let Selection::Entry {
            from_entry,
            to_entry: 0,
            from_column: 1,
            to_column,
        } = selection
        else {
            panic!("profile values asked for: {selection:?}");
        };
        assert!((1..=2).contains(&to_column), "profile values asked for");
        let skip = usize::try_from(from_entry - 1).expect("small");
        let row = |code: &u16| {
            let columns = [Data::OctetString(clock()), Data::LongUnsigned(*code)];
            Data::Structure(columns.into_iter().take(to_column.into()).collect())
        };
        Data::Array(codes.iter().skip(skip).map(row).collect())
    }

    fn uptime(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).expect("small")
    }

    fn act(&mut self, id: &str, command: &Command) -> Result<Option<InvokeResponse>, Status> {
        self.covered(id, command)?;
        let strike = self.strikes.pop_front();
        if strike == Some(Strike::NotSent) {
            return Err(refuse(Code::Unavailable, "TOKEN_FAILED"));
        }
        let permit_id = self.associations[id].permit.permit_id.clone();
        assert!(
            self.acted_under.insert(permit_id),
            "two acts under one permit"
        );
        self.acts.push(command.clone());
        let counter = self.counter + 1;
        let lost = strike == Some(Strike::RequestLost)
            || matches!(
                strike,
                Some(Strike::Broken { executed: false } | Strike::Hang { executed: false })
            );
        if lost {
            if !matches!(strike, Some(Strike::Hang { .. })) {
                self.associations.clear();
            }
        } else {
            self.counter = counter;
            let result = match strike {
                Some(Strike::Result(result)) => result,
                Some(Strike::Later) => 2,
                _ => 0,
            };
            let ignored = [Strike::Ignored, Strike::Forgotten { executed: false }];
            let executes = result == 0 || strike == Some(Strike::Later);
            if executes && !strike.is_some_and(|strike| ignored.contains(&strike)) {
                self.execute(strike);
            }
            if strike == Some(Strike::Forgotten { executed: false }) {
                self.associations.clear();
            }
            if !matches!(
                strike,
                None | Some(Strike::AnswerLost | Strike::Broken { .. } | Strike::Hang { .. })
            ) {
                return Ok(Some(answer(result, counter)));
            }
        }
        match strike {
            None => Ok(Some(answer(0, counter))),
            Some(Strike::Broken { .. }) => Err(Status::unknown("transport error")),
            Some(Strike::Hang { .. }) => Ok(None),
            Some(_) => Ok(Some(unknown("time-out", counter))),
        }
    }

    fn execute(&mut self, strike: Option<Strike>) {
        self.executed += 1;
        self.power_failures += 1;
        if strike == Some(Strike::EventsLost) {
            self.events.drain(..self.events.len() / 2);
        }
        self.events.extend([1, 2]);
        if strike == Some(Strike::MetrologyOnly) {
            self.started = Instant::now();
            return;
        }
        self.booting_until = Instant::now() + self.boot;
        self.started = self.booting_until;
        let ended = self.associations.drain().map(|(id, _)| id);
        if strike != Some(Strike::Forgotten { executed: true }) {
            self.closed.extend(ended);
        }
        match strike {
            Some(Strike::RelayMoves) => self.relay_closed = !self.relay_closed,
            Some(Strike::DataLost) => self.entries = 0,
            _ => {}
        }
    }
}

fn answer(result: u32, counter: u32) -> InvokeResponse {
    InvokeResponse {
        delivery: Delivery::Answered.into(),
        result,
        invocation_counter: counter,
        ..InvokeResponse::default()
    }
}

fn unknown(cause: &str, counter: u32) -> InvokeResponse {
    InvokeResponse {
        delivery: Delivery::Unknown.into(),
        cause: cause.to_owned(),
        invocation_counter: counter,
        ..InvokeResponse::default()
    }
}

/// The meter's clock stands still: 2026-11-22 20:44:05.
fn clock() -> Vec<u8> {
    vec![0x07, 0xEA, 11, 22, 7, 20, 44, 5, 0, 0, 0, 0]
}

#[tonic::async_trait]
impl AssociationService for Fake {
    async fn open_association(
        &self,
        request: Request<OpenAssociationRequest>,
    ) -> Result<Response<OpenAssociationResponse>, Status> {
        let association_id = self.world().open(request.get_ref())?;
        Ok(Response::new(OpenAssociationResponse {
            association_id,
            server_system_title: b"LKM00001".to_vec(),
            conformance: 0x0000_101D,
            server_max_receive_pdu_size: 1024,
            ..OpenAssociationResponse::default()
        }))
    }

    async fn rotate_keys(
        &self,
        request: Request<RotateKeysRequest>,
    ) -> Result<Response<RotateKeysResponse>, Status> {
        let permit = request.into_inner().permit.expect("a permit");
        let permit = Permit::decode(permit.body.as_slice()).expect("a permit");
        assert_eq!(permit.purpose(), Purpose::Rekey);
        let turn = {
            let mut world = self.world();
            world.turns += 1;
            match world.rotations.len() {
                0 | 1 => *world.rotations.front().expect("a turn"),
                _ => world.rotations.pop_front().expect("a turn"),
            }
        };
        match turn {
            Turn::Told(state, result) => Ok(Response::new(RotateKeysResponse {
                rotation: Some(Rotation {
                    rotation_id: permit.reset_id,
                    state: state.into(),
                    attempts: 1,
                    detail: "as custody says".to_owned(),
                    ..Rotation::default()
                }),
                delivery: Delivery::Answered.into(),
                result,
                invocation_counter: 7,
                evidence: vec!["as it was seen".to_owned()],
            })),
            Turn::Broken => Err(Status::from_error("the connection broke".into())),
            Turn::Refused(code, reason) => Err(refuse(code, reason)),
        }
    }

    async fn invoke_list(
        &self,
        request: Request<InvokeListRequest>,
    ) -> Result<Response<InvokeListResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.form(), ListForm::WithList);
        let all_gets = |command: &Command| command.service() == CommandService::Get;
        assert!(request.commands.iter().all(all_gets), "{request:?}");
        let answer = self
            .world()
            .get_list(&request.association_id, &request.commands)?;
        Ok(Response::new(answer))
    }

    async fn plan_association(
        &self,
        request: Request<PlanAssociationRequest>,
    ) -> Result<Response<PlanAssociationResponse>, Status> {
        let fits = request.get_ref().commands.iter().map(|command| {
            let act = command.service() == CommandService::Action;
            CommandFit {
                request: if act { self.world().fit } else { Fit::OneFrame }.into(),
                request_octets: 91,
                response: Fit::OneFrame.into(),
                response_octets: 75,
            }
        });
        Ok(Response::new(PlanAssociationResponse {
            client_max_receive_pdu_size: 1_024,
            fits: fits.collect(),
        }))
    }

    async fn invoke(
        &self,
        request: Request<InvokeRequest>,
    ) -> Result<Response<InvokeResponse>, Status> {
        let request = request.into_inner();
        let command = request.command.expect("a command");
        let answer = if command.service() == CommandService::Get {
            Some(self.world().get(&request.association_id, &command)?)
        } else {
            self.world().act(&request.association_id, &command)?
        };
        match answer {
            Some(answer) => Ok(Response::new(answer)),
            None => std::future::pending().await,
        }
    }

    async fn release_association(
        &self,
        request: Request<ReleaseAssociationRequest>,
    ) -> Result<Response<ReleaseAssociationResponse>, Status> {
        let mut world = self.world();
        if world
            .associations
            .remove(&request.get_ref().association_id)
            .is_some()
        {
            world.counter += 1;
        }
        Ok(Response::new(ReleaseAssociationResponse {}))
    }
}
