//! The frame trace, for who has to see what went over the wire: one frame a line (of the wrapper, a datagram, or of
//! HDLC), `SECONDS.MICROS METER DIRECTION HEX`. An encrypted frame is written whole, and so is one without an APDU. Of a
//! plain one, or one that is only authenticated or signed, the header and the tag are: an AARQ may hold a password, an
//! APDU a command. DIRECTION is `>` to the
//! meter, `<` from it.

mod shown;

use std::{os::unix::fs::OpenOptionsExt as _, path::Path};

use dlms::{
    Frame, Reassembler,
    hdlc::{self, Deframer},
};
use kit::{StartError, clock};
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

use self::shown::{Segments, wrapper};
use crate::directory::Transport;

/// Lines that wait for the disk; more are left out.
const WAITING_MAX: usize = 1024;

/// Where lines go; nowhere by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Option<mpsc::Sender<String>>);

/// The trace of one association.
pub(crate) struct MeterTrace {
    lines: Option<mpsc::Sender<String>>,
    meter_id: String,
    incoming: Incoming,
}

/// How what comes is cut into frames.
enum Incoming {
    Wrapper(Reassembler),
    Datagrams,
    Hdlc {
        /// Boxed: most meters have another framing.
        deframer: Box<Deframer>,
        to_meter: Segments,
        from_meter: Segments,
    },
}

/// Writes the lines to the file.
pub(crate) struct Writer {
    file: tokio::fs::File,
    lines: mpsc::Receiver<String>,
}

impl Trace {
    /// Opens the file for appending; it is readable by us alone.
    pub(crate) fn open(path: &Path) -> Result<(Self, Writer), StartError> {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        let file =
            file.map_err(|e| StartError::context(format!("trace_file {}", path.display()), e))?;
        let (sender, lines) = mpsc::channel(WAITING_MAX);
        Ok((
            Self(Some(sender)),
            Writer {
                file: tokio::fs::File::from_std(file),
                lines,
            },
        ))
    }

    pub(crate) fn of(&self, meter_id: &str, transport: Transport) -> MeterTrace {
        MeterTrace {
            lines: self.0.clone(),
            meter_id: meter_id.to_owned(),
            incoming: match transport {
                Transport::Tcp => Incoming::Wrapper(Reassembler::default()),
                Transport::Udp => Incoming::Datagrams,
                Transport::Hdlc(_) => Incoming::Hdlc {
                    deframer: Box::default(),
                    to_meter: Segments::default(),
                    from_meter: Segments::default(),
                },
            },
        }
    }
}

impl MeterTrace {
    /// A frame that goes to the meter.
    pub(crate) fn sent(&mut self, frame: &[u8]) {
        if self.lines.is_none() {
            return;
        }
        let shown = match &mut self.incoming {
            Incoming::Wrapper(_) | Incoming::Datagrams => wrapper(frame),
            Incoming::Hdlc { to_meter, .. } => {
                to_meter.shown(frame, hdlc::Frame::decode(frame).as_ref().ok())
            }
        };
        self.write('>', &shown);
    }

    /// Octets from the meter, however they are cut; over UDP one datagram.
    pub(crate) fn received(&mut self, mut octets: &[u8]) {
        if self.lines.is_none() {
            return;
        }
        let mut lines = Vec::new();
        match &mut self.incoming {
            Incoming::Wrapper(reassembler) => {
                reassembler.push(octets);
                while let Ok(Some(frame)) = reassembler.next() {
                    lines.extend(Frame::encode(&frame).ok().map(|frame| wrapper(&frame)));
                }
            }
            Incoming::Datagrams => lines.push(wrapper(octets)),
            Incoming::Hdlc {
                deframer,
                from_meter,
                ..
            } => {
                while let Some(found) = deframer.next(&mut octets) {
                    let frame = found.as_ref().ok();
                    lines.push(from_meter.shown(deframer.octets(), frame));
                }
            }
        }
        for shown in lines {
            self.write('<', &shown);
        }
    }

    fn write(&self, direction: char, shown: &str) {
        let Some(lines) = &self.lines else { return };
        let micros = clock::micros(clock::now());
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let line = format!(
            "{seconds}.{micros:06} {} {direction} {shown}\n",
            self.meter_id
        );
        if lines.try_send(line).is_err() {
            tracing::debug!("the trace file is behind; a frame is left out");
        }
    }
}

impl Writer {
    /// Writes until the last [`Trace`] is gone.
    pub(crate) async fn run(mut self) {
        while let Some(line) = self.lines.recv().await {
            let written = async {
                self.file.write_all(line.as_bytes()).await?;
                self.file.flush().await
            };
            if let Err(error) = written.await {
                tracing::error!(%error, "the trace file cannot be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(apdu: &[u8]) -> Vec<u8> {
        Frame {
            source: 1,
            destination: 1,
            apdu: apdu.to_vec(),
        }
        .encode()
        .unwrap()
    }

    /// What is written of this talk: meter, direction and frame of each line.
    async fn written(transport: Transport, talk: impl FnOnce(&mut MeterTrace)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let (trace, writer) = Trace::open(&path).unwrap();
        let mut of = trace.of("m-1", transport);
        drop(trace);
        talk(&mut of);
        drop(of);
        writer.run().await;
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    #[tokio::test]
    async fn one_frame_a_line_both_ways() {
        let lines = written(Transport::Tcp, |of| {
            of.sent(&frame(&[0xcb, 1, 0x30]));
            let answers = [frame(&[0xcf, 1, 0x31]), frame(&[0xcc, 1, 0x32])].concat();
            for octet in answers.chunks(5) {
                of.received(octet);
            }
        });
        assert_eq!(
            lines.await,
            [
                "m-1 > 0001000100010003cb0130",
                "m-1 < 0001000100010003cf0131",
                "m-1 < 0001000100010003cc0132"
            ]
        );
    }

    #[tokio::test]
    async fn one_datagram_a_line() {
        let lines = written(Transport::Udp, |of| {
            of.sent(&frame(&[0xcb, 1, 0x30]));
            of.received(&frame(&[0xcf, 1, 0x31]));
        });
        assert_eq!(
            lines.await,
            [
                "m-1 > 0001000100010003cb0130",
                "m-1 < 0001000100010003cf0131"
            ]
        );
    }

    #[tokio::test]
    async fn hdlc_frames_whole_or_damaged_have_a_line_each() {
        let snrm = hex::decode("7ea00802232193bd647e").unwrap();
        let transport = Transport::Hdlc(crate::directory::Hdlc {
            address_octets: 2,
            physical_address: 17,
            max_information: 128,
            window: 1,
        });
        let lines = written(transport, |of| {
            of.sent(&snrm);
            let mut bad = snrm.clone();
            *bad.get_mut(7).unwrap() ^= 1;
            let stream = [&bad[..], &snrm].concat();
            for part in stream.chunks(3) {
                of.received(part);
            }
        });
        assert_eq!(
            lines.await,
            [
                "m-1 > 7ea00802232193bd647e",
                "m-1 < 7ea00802232193bc647e",
                "m-1 < 7ea00802232193bd647e"
            ]
        );
    }
}
