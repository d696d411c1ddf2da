use std::sync::{Arc, Mutex};

use kit::{Listener, ServiceConfig as _};
use pb::reset_service_server::{ResetService, ResetServiceServer};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::*;
use crate::config::Search;
use crate::dev::layout::Layout;
use crate::dev::{configs, pki};
use crate::file;
use crate::output::Format;

type Events = std::pin::Pin<Box<dyn Stream<Item = Result<pb::WatchResetResponse, Status>> + Send>>;

/// A reset service whose streams break after every second event, as one that is restarted again and again.
#[derive(Clone, Default)]
struct Restless {
    /// What each `WatchReset` asked for.
    asked: Arc<Mutex<Vec<u64>>>,
}

fn reset(state: pb::ResetState) -> pb::Reset {
    pb::Reset {
        reset_id: "r-1".into(),
        meter_id: "m-1".into(),
        state: state.into(),
        verdict: pb::Verdict::Unreachable.into(),
        exit_code: 2,
        ..pb::Reset::default()
    }
}

fn told(sequence: u64) -> pb::WatchResetResponse {
    let state = if sequence == 5 {
        pb::ResetState::Done
    } else {
        pb::ResetState::Waiting
    };
    let event = pb::ResetEvent {
        sequence,
        kind: "NOTE".into(),
        ..pb::ResetEvent::default()
    };
    pb::WatchResetResponse {
        event: Some(event),
        reset: Some(reset(state)),
    }
}

#[tonic::async_trait]
impl ResetService for Restless {
    type WatchResetStream = Events;

    async fn watch_reset(
        &self,
        request: Request<pb::WatchResetRequest>,
    ) -> Result<Response<Events>, Status> {
        let after = request.get_ref().after_sequence;
        self.asked.lock().unwrap().push(after);
        let mut events: Vec<_> = (after + 1..=5).take(2).map(told).map(Ok).collect();
        if after + 2 < 5 {
            events.push(Err(Status::cancelled("stopping")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn create_reset(
        &self,
        _: Request<pb::CreateResetRequest>,
    ) -> Result<Response<pb::CreateResetResponse>, Status> {
        let reset = Some(reset(pb::ResetState::Planned));
        Ok(Response::new(pb::CreateResetResponse { reset }))
    }

    async fn get_reset(
        &self,
        _: Request<pb::GetResetRequest>,
    ) -> Result<Response<pb::GetResetResponse>, Status> {
        let reset = Some(reset(pb::ResetState::Done));
        Ok(Response::new(pb::GetResetResponse { reset }))
    }

    async fn list_resets(
        &self,
        request: Request<pb::ListResetsRequest>,
    ) -> Result<Response<pb::ListResetsResponse>, Status> {
        // Two pages.
        let next_page_token = if request.get_ref().page_token.is_empty() {
            "2".into()
        } else {
            String::new()
        };
        let resets = vec![reset(pb::ResetState::Done)];
        Ok(Response::new(pb::ListResetsResponse {
            resets,
            next_page_token,
        }))
    }

    async fn cancel_reset(
        &self,
        _: Request<pb::CancelResetRequest>,
    ) -> Result<Response<pb::CancelResetResponse>, Status> {
        Err(Status::cancelled("not asked for"))
    }
}

/// The service on a free port, and a session of the operator.
async fn start(
    service: Restless,
    dir: &std::path::Path,
) -> (Session, kit::ShutdownTrigger, kit::Tasks) {
    let layout = Layout::new(dir).unwrap();
    layout
        .folders()
        .iter()
        .for_each(|folder| file::private_folder(folder).unwrap());
    pki::make(&layout).unwrap();
    configs::write(&layout).unwrap();
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = file::read(&layout.client_config())
        .unwrap()
        .replace("127.0.0.1:7403", &address);
    file::write(&layout.client_config(), client, file::Mode::Public).unwrap();
    let config: ::reset::Config = kit::config::load(&layout.service_config("reset")).unwrap();
    let server = kit::Server::new("reset", config.server())
        .unwrap()
        .add(ResetServiceServer::new(service));
    let (trigger, shutdown) = kit::shutdown();
    let tasks = kit::Tasks::new(shutdown.clone());
    tasks.spawn("server", async move {
        server.serve(listener, shutdown).await.unwrap()
    });
    let session = Session::new(
        Search::new(Some(layout.client_config()), None),
        kit::context::new_id(),
    );
    (session, trigger, tasks)
}

#[tokio::test]
async fn a_story_goes_on_where_it_broke_and_ends_with_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let service = Restless::default();
    let (session, trigger, tasks) = start(service.clone(), dir.path()).await;
    let args = args::Reset {
        meter: "m-1".into(),
        tier: args::Tier::Cold,
        reason: "test".into(),
        ticket: String::new(),
        wait: true,
        validate_only: false,
        request_id: None,
    };
    let exit = start_reset(args, &session).await;
    assert_eq!(exit, Exit::NO_RESPONSE);
    // Every event was asked for once: after 0, after 2, after 4.
    assert_eq!(*service.asked.lock().unwrap(), [0, 2, 4]);
    trigger.fire();
    tasks.join().await;
}

async fn start_reset(args: args::Reset, session: &Session) -> Exit {
    super::start(args, session, &Output::new(Format::Json))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let dir = tempfile::tempdir().unwrap();
    let (session, trigger, tasks) = start(Restless::default(), dir.path()).await;
    let request = pb::ListResetsRequest {
        page_size: 1,
        ..pb::ListResetsRequest::default()
    };
    let read = async {
        Ok::<_, Failure>(all_pages!(
            session.resets()?,
            list_resets,
            request,
            resets,
            "list"
        ))
    };
    assert_eq!(read.await.unwrap().len(), 2);
    trigger.fire();
    tasks.join().await;
}

#[test]
fn a_reset_reads_as_its_verdict() {
    let reset = pb::Reset {
        state: pb::ResetState::Done.into(),
        verdict: pb::Verdict::SupplyChanged.into(),
        exit_code: 6,
        ..pb::Reset::default()
    };
    assert!(finished(&reset));
    let json = json_of(&reset);
    assert_eq!(
        (&json["verdict"], &json["state"]),
        (&json!("SUPPLY_CHANGED"), &json!("DONE"))
    );
    let unfinished = pb::Reset::default();
    assert_eq!(json_of(&unfinished)["verdict"], "");
    assert!(!finished(&unfinished));
}
