//! Over a serial line: HDLC, one client, who is there or not.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serial2_tokio::{CharSize, FlowControl, Parity, SerialPort, Settings, StopBits};
use tokio::time::{sleep, sleep_until};

use super::Running;
use crate::Error;

/// An open serial line: 8 data bits, no parity, one stop bit.
#[derive(Debug)]
pub(super) struct Line {
    path: PathBuf,
    baud: u32,
    port: SerialPort,
}

impl Line {
    pub(super) fn open(path: &Path, baud: u32) -> Result<Self, Error> {
        let set = |mut settings: Settings| {
            settings.set_raw();
            settings.set_baud_rate(baud)?;
            settings.set_char_size(CharSize::Bits8);
            settings.set_parity(Parity::None);
            settings.set_stop_bits(StopBits::One);
            settings.set_flow_control(FlowControl::None);
            Ok(settings)
        };
        let port = SerialPort::open(path, set).map_err(|source| Error::Serial {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            baud,
            port,
        })
    }
}

impl Running {
    /// A line has no connections: a client is there from its first octet until it is silent for long, or a reset ends it.
    pub(super) async fn over_serial(&mut self, mut line: Line) -> Result<(), Error> {
        let mut buffer = vec![0; READ_BUFFER];
        while !self.shutdown.is_fired() {
            self.device.advance(self.now());
            self.flush().await;
            let silent = self.device.is_silent();
            let read = tokio::select! {
                () = self.shutdown.fired() => continue,
                () = sleep_until(self.due()) => continue,
                read = line.port.read(&mut buffer) => read,
            };
            match read.map(|count| buffer.get(..count).unwrap_or_default()) {
                // nobody hears what is said to a meter that boots
                Ok([_, ..]) if silent => {}
                Ok(octets @ [_, ..]) => {
                    let peer = line.path.display().to_string();
                    self.conversation(&mut line.port, peer, octets).await?;
                }
                // the other end is gone: it may come back
                Ok([]) | Err(_) => {
                    tokio::select! {
                        () = self.shutdown.fired() => {}
                        () = sleep(REOPEN_PAUSE) => {}
                    }
                    if let Ok(again) = Line::open(&line.path, line.baud) {
                        line = again;
                    }
                }
            }
        }
        Ok(())
    }
}

const READ_BUFFER: usize = 2048;
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
