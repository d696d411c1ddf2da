//! `latchkey meter plan`: how commands would fit a meter's link. Nothing is sent to the meter.

use latchkey_proto::association::v1::{self as pb, Fit};
use latchkey_proto::audit::v1::{Command, CommandService};
use serde_json::{Value, json};

use crate::args::MeterPlan;
use crate::client::Session;
use crate::data;
use crate::failure::Failure;
use crate::output::{Output, short};

/// What every reset reads, and the reset commands of the two profiles that come with Latchkey.
const GETS: [&str; 5] = [
    "70:0.0.96.3.10.255:2",
    "70:0.0.96.3.10.255:3",
    "70:0.0.96.3.10.255:4",
    "8:0.0.1.0.0.255:2",
    "18:0.0.44.0.0.255:6",
];
const ACTIONS: [&str; 2] = [
    "9:0.0.10.1.0.255:1:long-unsigned:3",
    "1:0.0.96.1.2.255:1:integer:0",
];

pub(super) async fn run(
    args: &MeterPlan,
    session: &Session,
    output: &Output,
) -> Result<(), Failure> {
    let commands = commands(args)?;
    let request = pb::PlanAssociationRequest {
        meter_id: args.meter.clone(),
        commands: commands.clone(),
    };
    let plan = session
        .associations()?
        .plan_association(request)
        .await
        .map_err(|status| Failure::status(&format!("plan for {}", args.meter), &status))?
        .into_inner();
    let rows: Vec<_> = commands
        .iter()
        .zip(&plan.fits)
        .map(|(command, fit)| (json_of(command, fit), row(command, fit)))
        .collect();
    output.note(&format!(
        "proposed to {}: answers of at most {} octets",
        args.meter, plan.client_max_receive_pdu_size
    ));
    output.table(&["COMMAND", "REQUEST", "OCTETS", "ANSWER", "OCTETS"], &rows);
    Ok(())
}

fn commands(args: &MeterPlan) -> Result<Vec<Command>, Failure> {
    let nothing = args.get.is_empty() && args.action.is_empty();
    let gets = args.get.iter().map(String::as_str);
    let actions = args.action.iter().map(String::as_str);
    let gets = gets.chain(GETS.into_iter().filter(|_| nothing));
    let actions = actions.chain(ACTIONS.into_iter().filter(|_| nothing));
    gets.map(|text| command(text, CommandService::Get))
        .chain(actions.map(|text| command(text, CommandService::Action)))
        .collect()
}

/// `CLASS:OBIS:INDEX`, with an ACTION also `:DATA`.
fn command(text: &str, service: CommandService) -> Result<Command, Failure> {
    let malformed = || {
        Failure::usage(format!("{text:?} is no command"))
            .mend("write it as CLASS:OBIS:N, such as 70:0.0.96.3.10.255:2")
    };
    let mut parts = text.splitn(4, ':');
    let mut next = || parts.next().ok_or_else(malformed);
    let (class_id, name, index) = (next()?, next()?, next()?);
    let parameter = match parts.next() {
        None => Vec::new(),
        Some(_) if service == CommandService::Get => return Err(malformed()),
        Some(parameter) => data::parse(parameter)?,
    };
    Ok(Command {
        service: service.into(),
        class_id: class_id.parse().map_err(|_| malformed())?,
        logical_name: name.to_owned(),
        index: index.parse().map_err(|_| malformed())?,
        parameter,
        selection: Vec::new(),
        max_uses: u32::from(service == CommandService::Action),
    })
}

fn words(command: &Command) -> String {
    format!(
        "{} {}:{}:{}",
        short(command.service().as_str_name(), "COMMAND_SERVICE_"),
        command.class_id,
        command.logical_name,
        command.index
    )
}

const fn fit(fit: Fit) -> &'static str {
    match fit {
        Fit::Unspecified => "not said",
        Fit::OneFrame => "one frame",
        Fit::Blocks => "blocks",
        Fit::TooLong => "too long",
    }
}

fn row(command: &Command, planned: &pb::CommandFit) -> Vec<String> {
    let octets = |octets| match octets {
        0 => "no known bound".to_owned(),
        octets => octets.to_string(),
    };
    vec![
        words(command),
        fit(planned.request()).to_owned(),
        octets(planned.request_octets),
        fit(planned.response()).to_owned(),
        octets(planned.response_octets),
    ]
}

fn json_of(command: &Command, planned: &pb::CommandFit) -> Value {
    let name = |planned| fit(planned).replace(' ', "_");
    json!({
        "service": short(command.service().as_str_name(), "COMMAND_SERVICE_"),
        "class_id": command.class_id,
        "logical_name": command.logical_name,
        "index": command.index,
        "request": name(planned.request()),
        "request_octets": planned.request_octets,
        "response": name(planned.response()),
        "response_octets": planned.response_octets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(get: &[&str], action: &[&str]) -> Result<Vec<Command>, Failure> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        commands(&MeterPlan {
            meter: "m".into(),
            get: own(get),
            action: own(action),
        })
    }

    #[test]
    fn commands_as_they_are_typed() {
        let found = typed(
            &["7:1.0.99.1.0.255:2"],
            &["9:0.0.10.1.0.255:1:long-unsigned:3"],
        )
        .unwrap();
        assert_eq!(words(&found[0]), "GET 7:1.0.99.1.0.255:2");
        assert_eq!(
            (found[1].parameter.as_slice(), found[1].max_uses),
            ([0x12, 0, 3].as_slice(), 1)
        );
        assert_eq!(typed(&[], &[]).unwrap().len(), GETS.len() + ACTIONS.len());
        for bad in [
            "",
            "70",
            "70:0.0.1.0.0.255",
            "x:0.0.1.0.0.255:2",
            "8:0.0.1.0.0.255:2:1",
        ] {
            assert!(typed(&[bad], &[]).is_err(), "{bad}");
        }
    }
}
