//! Answers into messages.

use dlms::{AccessOutcome, Accessed, ActionOutcome, Data, DataAccessResult, Exception, Response};
use latchkey_proto::association::v1::{
    CommandResult, Delivery, InvokeListResponse, InvokeResponse, Notification,
};

const CAUSE_MAX: usize = 256;

/// What came of the command, or the commands, of one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// One result for each command; or, if it is not known whether the meter got the request, what was seen.
    outcome: Result<Vec<CommandResult>, String>,
    /// The counter it spent of the meter's global key; 0 if none.
    counter: u32,
    notifications: Vec<Notification>,
    /// Notifications that were not kept.
    dropped: u32,
}

impl Answer {
    /// An answer that passed every check of the association, to a request of `count` commands.
    pub(crate) fn of(response: Response, count: usize, counter: u32) -> Self {
        match results(response) {
            Ok(results) if fits(&results, count) => Self {
                outcome: Ok(results.into_iter().map(|result| result.message).collect()),
                counter,
                notifications: Vec::new(),
                dropped: 0,
            },
            Ok(results) => {
                let cause = format!("{} results for {count} commands", results.len());
                Self::unknown(&cause, counter)
            }
            Err(cause) => Self::unknown(&cause, counter),
        }
    }

    /// The request may have reached the meter, or not.
    pub(crate) fn unknown(cause: &str, counter: u32) -> Self {
        Self {
            outcome: Err(cause.chars().take(CAUSE_MAX).collect()),
            counter,
            notifications: Vec::new(),
            dropped: 0,
        }
    }

    /// With what the meter said unasked.
    pub(crate) fn with(self, (notifications, dropped): (Vec<Notification>, u32)) -> Self {
        Self {
            notifications,
            dropped,
            ..self
        }
    }

    /// As the answer to one command.
    pub(crate) fn render(self) -> InvokeResponse {
        let (delivery, result, cause) = match self.outcome {
            Ok(results) => {
                let result = results.into_iter().next().unwrap_or_default();
                (Delivery::Answered, result, String::new())
            }
            Err(cause) => (Delivery::Unknown, CommandResult::default(), cause),
        };
        InvokeResponse {
            delivery: delivery.into(),
            result: result.result,
            data: result.data,
            invocation_counter: self.counter,
            cause,
            notifications: self.notifications,
            dropped_notification_count: self.dropped,
        }
    }

    /// As the answer to several.
    pub(crate) fn render_list(self) -> InvokeListResponse {
        let (delivery, results, cause) = match self.outcome {
            Ok(results) => (Delivery::Answered, results, String::new()),
            Err(cause) => (Delivery::Unknown, Vec::new(), cause),
        };
        InvokeListResponse {
            delivery: delivery.into(),
            results,
            invocation_counter: self.counter,
            cause,
            notifications: self.notifications,
            dropped_notification_count: self.dropped,
        }
    }
}

/// One result, and whether a meter may stop behind it.
struct Of {
    message: CommandResult,
    /// It is of an ACCESS, and failed.
    ends: bool,
}

/// Whether there is a result for every command; of an ACCESS, up to the one that failed.
fn fits(results: &[Of], count: usize) -> bool {
    results.len() == count
        || (results.len() < count && results.last().is_some_and(|last| last.ends))
}

fn results(response: Response) -> Result<Vec<Of>, String> {
    Ok(match response {
        Response::GetData { data, .. } => vec![got(Ok(data))],
        Response::GetError { result, .. } => vec![got(Err(result))],
        Response::GetList { results, .. } => results.into_iter().map(got).collect(),
        Response::Set { result, .. } | Response::SetLastBlock { result, .. } => vec![set(result)],
        Response::SetList { results, .. } | Response::SetLastBlockList { results, .. } => {
            results.into_iter().map(set).collect()
        }
        Response::Action { result, data, .. } => vec![action((result, data))],
        Response::ActionList { outcomes, .. } => outcomes.into_iter().map(action).collect(),
        Response::Access { results, .. } => results.into_iter().map(accessed).collect(),
        // The association hands out whole values only.
        Response::GetBlock { .. }
        | Response::SetBlockAck { .. }
        | Response::ActionBlock { .. }
        | Response::ActionNextBlock { .. } => return Err("a block instead of an answer".to_owned()),
        // Neither proves anything: they are not authenticated.
        Response::Exception(exception) => return Err(describe(&exception)),
        Response::ConfirmedServiceError(error) => {
            return Err(format!("confirmed-service-error ({})", error.name()));
        }
    })
}

fn one(result: u8, data: Vec<u8>) -> Of {
    Of {
        message: CommandResult {
            result: result.into(),
            data,
        },
        ends: false,
    }
}

fn got(result: Result<Data, DataAccessResult>) -> Of {
    match result {
        Ok(data) => one(0, data.encode()),
        Err(result) => one(result.code(), Vec::new()),
    }
}

fn set(result: DataAccessResult) -> Of {
    one(result.code(), Vec::new())
}

fn action((result, data): ActionOutcome) -> Of {
    let data = data.and_then(Result::ok);
    one(
        result.code(),
        data.map(|data| data.encode()).unwrap_or_default(),
    )
}

fn accessed(accessed: Accessed) -> Of {
    let (code, reads) = match accessed.outcome {
        AccessOutcome::Get(result) => (result.code(), true),
        AccessOutcome::Set(result) => (result.code(), false),
        AccessOutcome::Action(result) => (result.code(), false),
    };
    // Null-data is what a read may find; of a write or a method it stands for nothing.
    let data = match accessed.data {
        Data::Null if !reads || code != 0 => Vec::new(),
        data => data.encode(),
    };
    Of {
        ends: !accessed.outcome.is_success(),
        ..one(code, data)
    }
}

/// An exception-response in a few words.
pub(crate) fn describe(exception: &Exception) -> String {
    format!(
        "exception-response state {} service {} ({})",
        exception.state,
        exception.service,
        exception.name()
    )
}

#[cfg(test)]
mod tests {
    use dlms::{ActionResult, InvokeId, LongInvokeId};

    use super::*;

    const INVOKE: InvokeId = InvokeId::new(1);

    fn render(response: Response) -> InvokeResponse {
        Answer::of(response, 1, 7).render()
    }

    fn action(result: ActionResult) -> Response {
        Response::Action {
            invoke: INVOKE,
            result,
            data: None,
        }
    }

    #[test]
    fn answers() {
        let got = render(Response::GetData {
            invoke: INVOKE,
            data: Data::Boolean(true),
        });
        assert_eq!(
            (got.delivery(), got.result, got.data, got.invocation_counter),
            (Delivery::Answered, 0, vec![3, 1], 7)
        );
        let refused = render(Response::GetError {
            invoke: INVOKE,
            result: DataAccessResult::READ_WRITE_DENIED,
        });
        assert_eq!(
            (refused.delivery(), refused.result),
            (Delivery::Answered, 3)
        );
        let done = render(action(ActionResult::SUCCESS));
        assert_eq!(
            (done.delivery(), done.result, done.data),
            (Delivery::Answered, 0, vec![])
        );
    }

    #[test]
    fn what_is_not_authenticated_proves_nothing() {
        let exception = render(Response::Exception(Exception::invocation_counter(9)));
        assert_eq!(
            (exception.delivery(), exception.data),
            (Delivery::Unknown, vec![])
        );
        assert_eq!(
            exception.cause,
            "exception-response state 1 service 6 (invocation-counter-error)"
        );
        let long = Answer::unknown(&"é".repeat(300), 0).render();
        assert_eq!(long.cause.chars().count(), 256);
    }

    #[test]
    fn every_command_of_a_list_has_its_result() {
        let list = || Response::GetList {
            invoke: INVOKE,
            results: vec![
                Ok(Data::Unsigned(5)),
                Err(DataAccessResult::OBJECT_UNDEFINED),
            ],
        };
        let answer = Answer::of(list(), 2, 9).render_list();
        let results: Vec<_> = answer.results.iter().map(|one| one.result).collect();
        assert_eq!(
            (answer.delivery(), results),
            (Delivery::Answered, vec![0, 4])
        );
        assert_eq!(answer.results[0].data, [0x11, 5]);
        for count in [1, 3] {
            let short = Answer::of(list(), count, 9).render_list();
            assert_eq!(short.delivery(), Delivery::Unknown, "{count}");
            assert!(short.results.is_empty() && short.cause.contains("2 results"));
        }
    }

    #[test]
    fn an_access_may_end_where_it_failed() {
        let access = |last: ActionResult| Response::Access {
            invoke: LongInvokeId::new(1),
            time: None,
            specifications: None,
            results: vec![
                Accessed {
                    outcome: AccessOutcome::Get(DataAccessResult::SUCCESS),
                    data: Data::Null,
                },
                Accessed {
                    outcome: AccessOutcome::Action(last),
                    data: Data::Null,
                },
            ],
        };
        let failed = Answer::of(access(ActionResult::TEMPORARY_FAILURE), 3, 0).render_list();
        assert_eq!(failed.delivery(), Delivery::Answered);
        let results: Vec<_> = failed
            .results
            .into_iter()
            .map(|r| (r.result, r.data))
            .collect();
        assert_eq!(results, [(0, vec![0]), (2, vec![])]);
        let short = Answer::of(access(ActionResult::SUCCESS), 3, 0).render_list();
        assert_eq!(
            short.delivery(),
            Delivery::Unknown,
            "nothing failed, and yet one is missing"
        );
    }

    #[test]
    fn what_was_said_unasked_comes_along() {
        let heard = (vec![Notification::default()], 3);
        let answer = Answer::unknown("silence", 0).with(heard).render();
        assert_eq!(
            (
                answer.notifications.len(),
                answer.dropped_notification_count
            ),
            (1, 3)
        );
    }
}
