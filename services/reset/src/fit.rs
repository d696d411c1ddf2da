//! What a rehearsal says of the link: how the tier's command and the readings around it would cross it.

use latchkey_proto::association::v1::{CommandFit, Fit, PlanAssociationResponse};

use crate::error::Error;

/// One line for a person. The tier's command is the last of the plan.
///
/// # Errors
/// [`Error::DoesNotFit`] if that command, or the question for a fact, cannot cross the link at all.
pub(crate) fn line(plan: &PlanAssociationResponse) -> Result<String, Error> {
    let Some((act, readings)) = plan.fits.split_last() else {
        return Ok(String::new());
    };
    if act.request() == Fit::TooLong {
        let octets = act.request_octets;
        return Err(Error::DoesNotFit(format!(
            "its command would take {octets} octets"
        )));
    }
    if let Some(long) = readings.iter().find(|fit| fit.request() == Fit::TooLong) {
        let octets = long.request_octets;
        return Err(Error::DoesNotFit(format!(
            "one of its questions would take {octets} octets"
        )));
    }
    let whole = readings.iter().filter(|fit| in_one_frame(fit)).count();
    Ok(format!(
        "the command crosses the link {}, its answer {}; {whole} of {} readings with their answers in one frame each, APDUs of the meter up to {} octets",
        crossing(act.request(), act.request_octets),
        crossing(act.response(), act.response_octets),
        readings.len(),
        plan.client_max_receive_pdu_size,
    ))
}

fn in_one_frame(fit: &CommandFit) -> bool {
    fit.request() == Fit::OneFrame && fit.response() == Fit::OneFrame
}

fn crossing(fit: Fit, octets: u32) -> String {
    let how = match fit {
        Fit::OneFrame => "in one frame",
        Fit::Blocks => "in blocks",
        Fit::TooLong => "not at all, if it is as long as it may be",
        Fit::Unspecified => "unknown",
    };
    match octets {
        0 => format!("{how} (of unknown length)"),
        octets => format!("{how} ({octets} octets)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(request: Fit, response: Fit, octets: u32) -> CommandFit {
        CommandFit {
            request: request.into(),
            request_octets: octets,
            response: response.into(),
            response_octets: octets,
        }
    }

    fn plan(fits: Vec<CommandFit>) -> PlanAssociationResponse {
        PlanAssociationResponse {
            client_max_receive_pdu_size: 1_024,
            fits,
        }
    }

    #[test]
    fn a_person_is_told_before_anything_is_sent() {
        let good = plan(vec![
            fit(Fit::OneFrame, Fit::OneFrame, 91),
            fit(Fit::OneFrame, Fit::Blocks, 0),
            fit(Fit::OneFrame, Fit::OneFrame, 103),
        ]);
        assert_eq!(
            line(&good).expect("it fits"),
            "the command crosses the link in one frame (103 octets), its answer in one frame (103 octets); 1 of 2 readings with their answers in one frame each, APDUs of the meter up to 1024 octets"
        );
        assert_eq!(line(&plan(Vec::new())).expect("nothing to say"), "");
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let long = fit(Fit::TooLong, Fit::OneFrame, 3_000);
        let short = fit(Fit::OneFrame, Fit::TooLong, 3_000);
        for (fits, expected) in [
            (vec![short, long], "its command would take 3000"),
            (vec![long, short], "one of its questions would take 3000"),
        ] {
            let error = line(&plan(fits)).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(
            line(&plan(vec![short])).is_ok(),
            "how long an answer is, only the meter knows"
        );
    }
}
