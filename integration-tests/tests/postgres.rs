//! The same reset with every service on PostgreSQL.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::fs;

use anyhow::{Context as _, Result};
use integration_tests::{postgres::Postgres, stack::Stack};

#[test]
fn a_reset_on_postgresql_survives_a_restart_of_every_service() -> Result<()> {
    let server = Postgres::start()?;
    let mut stack = Stack::prepare()?;
    for service in ["auditor", "custody", "association", "reset"] {
        server.create(service)?;
        let file = stack.config(service);
        let text = fs::read_to_string(&file)?;
        let line = text
            .lines()
            .find(|line| line.contains("sqlite:"))
            .context("a database line")?;
        fs::write(
            &file,
            text.replace(line, &format!("url = \"{}\"", server.url(service))),
        )?;
    }
    stack.up()?;
    let meter = stack.meter(1, "standard", &[])?;
    for round in 1..=2 {
        let done = stack
            .json(&["reset", &meter.id, "--tier", "cold", "--wait"])
            .with_context(|| stack.logs())?;
        assert_eq!(done["verdict"], "SUCCEEDED", "{done}");
        assert_eq!(meter.events_of("reset").len(), round);
        for service in integration_tests::stack::SERVICES {
            stack.terminate(service)?;
        }
        stack.up()?;
    }
    let resets = stack.ok(&["--output", "json", "resets", "list"])?;
    assert_eq!(resets.matches("SUCCEEDED").count(), 2, "{resets}");
    Ok(())
}
