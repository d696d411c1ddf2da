//! `latchkey reset` and `latchkey resets`: begin a reset, tell its story, stop it.

use std::time::{Duration, Instant};

use latchkey_proto::audit::v1::Tier;
use latchkey_proto::reset::v1 as pb;
use pb::reset_service_client::ResetServiceClient;
use serde_json::{Value, json};

use crate::args;
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, short, time, time_of_day};

/// How long the reset service may be away before the story is given up. The reset itself goes on: the service
/// resumes it when it is back.
const AWAY: Duration = Duration::from_secs(30);
/// A meter may be silent for minutes: the deadline of an ordinary call is too short for a story.
const LONGEST_STORY: Duration = Duration::from_secs(3600);
const LAST_WORDS: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(500);

pub(crate) async fn start(
    args: args::Reset,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut client = session.resets()?;
    let request = pb::CreateResetRequest {
        request_id: session.request_id(),
        meter_id: args.meter.clone(),
        tier: Tier::from(args.tier).into(),
        reason: args.reason,
        ticket: args.ticket,
        validate_only: args.validate_only,
    };
    let response = client
        .create_reset(request)
        .await
        .map_err(|status| Failure::status(&format!("reset {}", args.meter), &status))?;
    let reset = begun(response.into_inner().reset)?;
    if args.validate_only {
        output.result(&json_of(&reset), || {
            format!("policy and plan allow this reset of {}", reset.meter_id)
        });
        return Ok(Exit::OK);
    }
    if !args.wait {
        output.result(&json_of(&reset), || {
            format!(
                "reset {} of {} has begun\nfollow it: latchkey resets show {0} --wait",
                reset.reset_id, reset.meter_id
            )
        });
        return Ok(Exit::OK);
    }
    follow(client, reset, output).await
}

/// A reset that some other verb began is told the same way.
pub(crate) async fn follow(
    client: ResetServiceClient<kit::Channel>,
    reset: pb::Reset,
    output: &Output,
) -> Result<Exit, Failure> {
    output.note(&format!("reset {} of {}", reset.reset_id, reset.meter_id));
    let reset = Story {
        client,
        output,
        after: 0,
        until_done: true,
        away_since: None,
    }
    .tell(reset)
    .await?;
    Ok(concluded(&reset, output))
}

/// The reset in a response; without one the service broke its contract.
pub(crate) fn begun(reset: Option<pb::Reset>) -> Result<pb::Reset, Failure> {
    reset.ok_or_else(|| {
        Failure::new(
            Exit::INTERNAL,
            crate::failure::Party::Service,
            "the reset service answered without a reset",
        )
    })
}

pub(crate) async fn manage(
    verb: args::Resets,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        args::Resets::List { meter } => list(meter, session, output).await,
        args::Resets::Show { reset_id, wait } => show(reset_id, wait, session, output).await,
        args::Resets::Cancel { reset_id } => cancel(reset_id, session, output).await,
    }
}

async fn list(meter_id: String, session: &Session, output: &Output) -> Result<Exit, Failure> {
    let request = pb::ListResetsRequest {
        page_size: 500,
        page_token: String::new(),
        meter_id,
    };
    let resets = all_pages!(
        session.resets()?,
        list_resets,
        request,
        resets,
        "list the resets"
    );
    let rows: Vec<_> = resets
        .iter()
        .map(|reset| (json_of(reset), row(reset)))
        .collect();
    output.table(
        &["RESET", "METER", "TIER", "STATE", "VERDICT", "CREATED"],
        &rows,
    );
    Ok(Exit::OK)
}

async fn show(
    reset_id: String,
    wait: bool,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut client = session.resets()?;
    let response = client
        .get_reset(pb::GetResetRequest {
            reset_id: reset_id.clone(),
        })
        .await
        .map_err(|status| Failure::status(&format!("read reset {reset_id}"), &status))?;
    let reset = begun(response.into_inner().reset)?;
    let until_done = wait || finished(&reset);
    let reset = Story {
        client,
        output,
        after: 0,
        until_done,
        away_since: None,
    }
    .tell(reset)
    .await?;
    if finished(&reset) {
        let exit = concluded(&reset, output);
        return Ok(if wait { exit } else { Exit::OK });
    }
    output.result(&json_of(&reset), || {
        format!("{} ({})", state_of(&reset), reset.reset_id)
    });
    Ok(Exit::OK)
}

async fn cancel(reset_id: String, session: &Session, output: &Output) -> Result<Exit, Failure> {
    let response = session
        .resets()?
        .cancel_reset(pb::CancelResetRequest {
            reset_id: reset_id.clone(),
        })
        .await
        .map_err(|status| Failure::status(&format!("cancel reset {reset_id}"), &status))?;
    let reset = begun(response.into_inner().reset)?;
    output.result(&json_of(&reset), || {
        format!("reset {reset_id} is {}", state_of(&reset))
    });
    Ok(Exit::OK)
}

/// The events of a reset, told as they come.
struct Story<'a> {
    client: ResetServiceClient<kit::Channel>,
    output: &'a Output,
    /// The last sequence number told.
    after: u64,
    /// Stay until the verdict, or tell only what has happened so far.
    until_done: bool,
    /// When the service was first missed; `None` while it is there.
    away_since: Option<Instant>,
}

impl Story<'_> {
    /// The service may restart while we listen: the stream is taken up again where it broke, and the reset is the
    /// same one.
    async fn tell(mut self, mut reset: pb::Reset) -> Result<pb::Reset, Failure> {
        loop {
            if let Err(status) = self.listen(&mut reset).await {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                if !kit::status::is_transient(&status) || since.elapsed() > AWAY {
                    return Err(self.lost(&reset, &status));
                }
                self.output
                    .waiting("the reset service is away; waiting for it");
            }
            if finished(&reset) || !self.until_done {
                self.output.done();
                return Ok(reset);
            }
            // The story may have ended with a line that was older than the verdict: there is no line left to say so.
            let request = pb::GetResetRequest {
                reset_id: reset.reset_id.clone(),
            };
            if let Ok(now) = self.client.get_reset(request).await {
                reset = now.into_inner().reset.unwrap_or(reset);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn listen(&mut self, reset: &mut pb::Reset) -> Result<(), tonic::Status> {
        let mut request = tonic::Request::new(pb::WatchResetRequest {
            reset_id: reset.reset_id.clone(),
            after_sequence: self.after,
        });
        request.set_timeout(LONGEST_STORY);
        let mut stream = self.client.watch_reset(request).await?.into_inner();
        self.away_since = None;
        loop {
            let next = stream.message();
            let message = match self.patience(reset) {
                None => next.await?,
                Some(patience) => match tokio::time::timeout(patience, next).await {
                    Ok(message) => message?,
                    Err(_) => return Ok(()),
                },
            };
            let Some(message) = message else {
                return Ok(());
            };
            if let Some(now) = message.reset {
                *reset = now;
            }
            if let Some(event) = message.event.filter(|event| event.sequence > self.after) {
                self.after = event.sequence;
                self.event(&event, reset);
            }
        }
    }

    /// How long a pause may be: for ever while the story goes on; its last words may come a little after the
    /// verdict; and where only the past is wanted, a pause is its end.
    fn patience(&self, reset: &pb::Reset) -> Option<Duration> {
        match (self.until_done, finished(reset)) {
            (true, false) => None,
            (true, true) => Some(LAST_WORDS),
            (false, _) => Some(RETRY),
        }
    }

    fn event(&self, event: &pb::ResetEvent, reset: &pb::Reset) {
        let json = json!({
            "reset_id": reset.reset_id,
            "sequence": event.sequence,
            "time": time(event.time.as_ref()),
            "kind": event.kind,
            "text": event.text,
        });
        self.output.result(&json, || {
            format!(
                "{}  {:<11} {}",
                time_of_day(event.time.as_ref()),
                event.kind,
                event.text
            )
        });
        if !finished(reset) {
            self.output.waiting(waiting_for(reset));
        }
    }

    fn lost(&self, reset: &pb::Reset, status: &tonic::Status) -> Failure {
        self.output.done();
        Failure::status(&format!("follow reset {}", reset.reset_id), status).mend(format!(
            "the reset goes on without this command; follow it with: latchkey resets show {} --wait",
            reset.reset_id
        ))
    }
}

fn waiting_for(reset: &pb::Reset) -> String {
    let what = match reset.state() {
        pb::ResetState::Guarding => "reading guards",
        pb::ResetState::Acting => "sending the command",
        pb::ResetState::Probing => "the answer was lost: finding out what happened",
        pb::ResetState::Waiting => "waiting for the meter to come back",
        pb::ResetState::Validating => "comparing the meter with what it was",
        _ => "working",
    };
    format!("{}: {what}", reset.meter_id)
}

fn finished(reset: &pb::Reset) -> bool {
    matches!(
        reset.state(),
        pb::ResetState::Done | pb::ResetState::Cancelled
    )
}

/// Prints the verdict.
fn concluded(reset: &pb::Reset, output: &Output) -> Exit {
    let exit = Exit::of_reset(reset.exit_code);
    output.result(&json_of(reset), || match reset.state() {
        pb::ResetState::Cancelled => format!("{}: {}", reset.meter_id, reset.detail),
        _ => format!(
            "verdict: {}: {} (exit {})",
            verdict_of(reset),
            reset.detail,
            exit.number()
        ),
    });
    exit
}

fn row(reset: &pb::Reset) -> Vec<String> {
    vec![
        reset.reset_id.clone(),
        reset.meter_id.clone(),
        short(reset.tier().as_str_name(), "TIER_").to_lowercase(),
        state_of(reset).to_owned(),
        verdict_of(reset).to_owned(),
        time(reset.create_time.as_ref()),
    ]
}

fn state_of(reset: &pb::Reset) -> &'static str {
    short(reset.state().as_str_name(), "RESET_STATE_")
}

fn verdict_of(reset: &pb::Reset) -> &'static str {
    match reset.verdict() {
        pb::Verdict::Unspecified => "",
        verdict => short(verdict.as_str_name(), "VERDICT_"),
    }
}

pub(crate) fn json_of(reset: &pb::Reset) -> Value {
    json!({
        "reset_id": reset.reset_id,
        "meter_id": reset.meter_id,
        "tier": short(reset.tier().as_str_name(), "TIER_"),
        "reason": reset.reason,
        "ticket": reset.ticket,
        "principal": reset.principal,
        "state": state_of(reset),
        "verdict": verdict_of(reset),
        "detail": reset.detail,
        "exit_code": reset.exit_code,
        "create_time": time(reset.create_time.as_ref()),
        "update_time": time(reset.update_time.as_ref()),
    })
}

#[cfg(test)]
mod tests;
