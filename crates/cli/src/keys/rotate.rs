//! `latchkey keys rotate` and `latchkey keys rotations`: new keys over the air.

use std::time::{Duration, Instant};

use latchkey_proto::custody::v1::KeyKind;
use latchkey_proto::reset::v1 as pb;
use pb::key_rotation_service_client::KeyRotationServiceClient;
use serde_json::{Value, json};

use crate::args;
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::output::{Output, short, time};

/// How long the reset service may be away before the story is given up. The rotation itself goes on.
const AWAY: Duration = Duration::from_secs(30);
/// A meter may be silent for hours: the deadline of an ordinary call is too short.
const LONGEST_STORY: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_millis(500);

type Client = KeyRotationServiceClient<kit::Channel>;

pub(super) async fn start(
    args: args::KeysRotate,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut client = session.rotations()?;
    let request = pb::RotateKeysRequest {
        request_id: session.request_id(),
        meter_id: args.meter.clone(),
        keys: args
            .key
            .iter()
            .map(|key| KeyKind::from(*key).into())
            .collect(),
        agree: args.agree,
        reason: args.reason,
        ticket: args.ticket,
    };
    let response = client
        .rotate_keys(request)
        .await
        .map_err(|status| Failure::status(&format!("change keys of {}", args.meter), &status))?;
    let rotation = begun(response.into_inner().rotation)?;
    if args.wait {
        return follow(client, rotation, output).await;
    }
    output.result(&json_of(&rotation), || {
        format!(
            "rotation {} of {} has begun\nfollow it: latchkey keys rotations {0} --wait",
            rotation.rotation_id, rotation.meter_id
        )
    });
    Ok(Exit::OK)
}

pub(super) async fn manage(
    args: args::KeysRotations,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let Some(rotation_id) = args.rotation_id else {
        return list(args.meter, args.active, session, output).await;
    };
    let mut client = session.rotations()?;
    if args.retry {
        let request = pb::RetryKeyRotationRequest {
            rotation_id: rotation_id.clone(),
        };
        client.retry_key_rotation(request).await.map_err(|status| {
            Failure::status(&format!("look at rotation {rotation_id} now"), &status)
        })?;
    }
    let rotation = read(&mut client, &rotation_id).await?;
    if args.wait {
        return follow(client, rotation, output).await;
    }
    output.result(&json_of(&rotation), || text_of(&rotation));
    Ok(Exit::OK)
}

async fn read(client: &mut Client, rotation_id: &str) -> Result<pb::KeyRotation, Failure> {
    let request = pb::GetKeyRotationRequest {
        rotation_id: rotation_id.to_owned(),
    };
    let response = client
        .get_key_rotation(request)
        .await
        .map_err(|status| Failure::status(&format!("read rotation {rotation_id}"), &status))?;
    begun(response.into_inner().rotation)
}

async fn list(
    meter_id: String,
    active_only: bool,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = pb::ListKeyRotationsRequest {
        page_size: 500,
        page_token: String::new(),
        meter_id,
        active_only,
    };
    let all = all_pages!(
        session.rotations()?,
        list_key_rotations,
        request,
        rotations,
        "list the rotations of keys"
    );
    let rows: Vec<_> = all.iter().map(|one| (json_of(one), row(one))).collect();
    let header = [
        "ROTATION", "METER", "KEYS", "STATE", "VERDICT", "ATTEMPTS", "CREATED",
    ];
    output.table(&header, &rows);
    Ok(Exit::OK)
}

/// Tells it whenever it changes, until its verdict. The service may restart meanwhile.
async fn follow(
    mut client: Client,
    mut rotation: pb::KeyRotation,
    output: &Output,
) -> Result<Exit, Failure> {
    output.note(&format!(
        "rotation {} of {}",
        rotation.rotation_id, rotation.meter_id
    ));
    let mut away: Option<Instant> = None;
    while !finished(&rotation) {
        if let Err(status) = listen(&mut client, &mut rotation, output).await {
            let since = *away.get_or_insert_with(Instant::now);
            if !kit::status::is_transient(&status) || since.elapsed() > AWAY {
                output.done();
                let what = format!("follow rotation {}", rotation.rotation_id);
                return Err(Failure::status(&what, &status).mend(format!(
                    "the rotation goes on without this command; follow it with: latchkey keys rotations {} --wait",
                    rotation.rotation_id
                )));
            }
            output.waiting("the reset service is away; waiting for it");
            tokio::time::sleep(RETRY).await;
        } else {
            away = None;
        }
    }
    output.done();
    let exit = Exit::of_reset(rotation.exit_code);
    output.result(&json_of(&rotation), || {
        format!(
            "verdict: {}: {} (exit {})",
            verdict_of(&rotation),
            rotation.detail,
            exit.number()
        )
    });
    Ok(exit)
}

async fn listen(
    client: &mut Client,
    rotation: &mut pb::KeyRotation,
    output: &Output,
) -> Result<(), tonic::Status> {
    let mut request = tonic::Request::new(pb::WatchKeyRotationRequest {
        rotation_id: rotation.rotation_id.clone(),
    });
    request.set_timeout(LONGEST_STORY);
    let mut stream = client.watch_key_rotation(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        if let Some(now) = message.rotation {
            *rotation = now;
        }
        if finished(rotation) {
            return Ok(());
        }
        output.waiting(format!(
            "{}: {}: {}",
            rotation.meter_id,
            state_of(rotation),
            rotation.detail
        ));
    }
    Ok(())
}

fn begun(rotation: Option<pb::KeyRotation>) -> Result<pb::KeyRotation, Failure> {
    rotation.ok_or_else(|| {
        Failure::new(
            Exit::INTERNAL,
            Party::Service,
            "the reset service answered without a rotation",
        )
    })
}

fn finished(rotation: &pb::KeyRotation) -> bool {
    rotation.state() == pb::KeyRotationState::Done
}

fn state_of(rotation: &pb::KeyRotation) -> &'static str {
    short(rotation.state().as_str_name(), "KEY_ROTATION_STATE_")
}

fn verdict_of(rotation: &pb::KeyRotation) -> &'static str {
    match rotation.verdict() {
        pb::RotationVerdict::Unspecified => "",
        verdict => short(verdict.as_str_name(), "ROTATION_VERDICT_"),
    }
}

fn keys_of(rotation: &pb::KeyRotation) -> Vec<&'static str> {
    let name = |key| match key {
        KeyKind::GlobalUnicastEncryption => "guek",
        KeyKind::GlobalBroadcastEncryption => "gbek",
        KeyKind::GlobalAuthentication => "gak",
        KeyKind::Master => "master",
        KeyKind::Unspecified => "?",
    };
    rotation.keys().map(name).collect()
}

fn row(rotation: &pb::KeyRotation) -> Vec<String> {
    vec![
        rotation.rotation_id.clone(),
        rotation.meter_id.clone(),
        keys_of(rotation).join(","),
        state_of(rotation).to_owned(),
        verdict_of(rotation).to_owned(),
        rotation.attempts.to_string(),
        time(rotation.create_time.as_ref()),
    ]
}

fn text_of(rotation: &pb::KeyRotation) -> String {
    let next = match time(rotation.next_time.as_ref()).as_str() {
        "" | "-" => String::new(),
        next => format!("\nnext look: {next}"),
    };
    format!(
        "{} {} of {}: {}{next}",
        state_of(rotation),
        verdict_of(rotation),
        rotation.meter_id,
        rotation.detail
    )
}

fn json_of(rotation: &pb::KeyRotation) -> Value {
    json!({
        "rotation_id": rotation.rotation_id,
        "meter_id": rotation.meter_id,
        "keys": keys_of(rotation),
        "agree": rotation.agree,
        "reason": rotation.reason,
        "ticket": rotation.ticket,
        "principal": rotation.principal,
        "state": state_of(rotation),
        "verdict": verdict_of(rotation),
        "detail": rotation.detail,
        "exit_code": rotation.exit_code,
        "attempts": rotation.attempts,
        "next_time": time(rotation.next_time.as_ref()),
        "create_time": time(rotation.create_time.as_ref()),
        "update_time": time(rotation.update_time.as_ref()),
    })
}
