//! The foreign meter's sockets: the wrapper over TCP and over UDP, HDLC over TCP with segmentation.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use dlms_cosem_rs::{
    codec::Encode as _,
    transport::{
        hdlc::{
            Address, Connection, Control, Event, Found, Frame, Framer, Parameters, Reassembler,
            Role,
        },
        wrapper::{StreamReassembler, Wpdu},
    },
};

use super::{Engines, Life, Way, booting};

/// Octets of the information fields it takes and sends over HDLC: small, so that APDUs go in segments.
const INFORMATION: u16 = 64;
/// What goes before an APDU in an HDLC answer.
const LLC: [u8; 3] = [0xE6, 0xE7, 0x00];
const PATIENCE: Duration = Duration::from_millis(50);

/// What all its threads share.
#[derive(Clone)]
pub(super) struct House {
    pub(super) way: Way,
    pub(super) life: Arc<Mutex<Life>>,
    pub(super) stop: Arc<AtomicBool>,
}

impl House {
    fn is_open(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && !booting(&self.life)
    }
}

pub(super) fn accept(listener: &TcpListener, house: &House, hdlc: bool) {
    while !house.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // A booting meter's stack is not there: the connection ends at once.
            Ok((stream, _)) if booting(&house.life) => drop(stream),
            Ok((stream, _)) if hdlc => drop(serve_hdlc(stream, house)),
            Ok((stream, _)) => drop(serve_wrapper(stream, house)),
            Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

/// Octets that have come; `None` at the end of the connection, nothing when it is time to look around.
fn read(stream: &mut TcpStream, chunk: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(chunk) {
        Ok(0) => Ok(None),
        Ok(count) => Ok(Some(count)),
        Err(error) if waited(&error) => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

fn waited(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn serve_wrapper(mut stream: TcpStream, house: &House) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut engines = Engines::new(house);
    let reassembler = StreamReassembler::new(2048);
    let (mut buffered, mut chunk) = (Vec::new(), [0_u8; 512]);
    while house.is_open() {
        let Some(count) = read(&mut stream, &mut chunk)? else {
            return Ok(());
        };
        buffered.extend_from_slice(&chunk[..count]);
        while let Ok(Some((wpdu, used))) = reassembler.next_pdu(&buffered) {
            let frame = answer(&mut engines, &wpdu)?;
            stream.write_all(&frame)?;
            buffered.drain(..used);
        }
    }
    Ok(())
}

pub(super) fn serve_udp(socket: &UdpSocket, house: &House) {
    let mut engines = Engines::new(house);
    let reassembler = StreamReassembler::new(2048);
    let mut datagram = [0_u8; 4096];
    while !house.stop.load(Ordering::Relaxed) {
        let Ok((count, peer)) = socket.recv_from(&mut datagram) else {
            continue;
        };
        let Ok(Some((wpdu, used))) = reassembler.next_pdu(&datagram[..count]) else {
            continue;
        };
        if used == count
            && let Ok(frame) = answer(&mut engines, &wpdu)
        {
            let _ = socket.send_to(&frame, peer);
        }
    }
}

fn answer(engines: &mut Engines, wpdu: &Wpdu<'_>) -> io::Result<Vec<u8>> {
    let client = wpdu.header.source;
    let reply = engines.answer(client, wpdu.apdu)?;
    let mut frame = Vec::new();
    Wpdu::new(wpdu.header.destination, client, &reply)
        .and_then(|reply| reply.encode(&mut frame))
        .map_err(io::Error::other)?;
    Ok(frame)
}

/// One client at a time; a window of one.
fn serve_hdlc(mut stream: TcpStream, house: &House) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = Line::new(house);
    let mut storage = [0_u8; 4096];
    let mut joined = Reassembler::new(&mut storage);
    let (mut buffered, mut chunk, mut framer) = (Vec::new(), [0_u8; 512], Framer::new());
    while house.is_open() {
        let Some(count) = read(&mut stream, &mut chunk)? else {
            return Ok(());
        };
        buffered.extend_from_slice(&chunk[..count]);
        loop {
            match framer.next_frame(&buffered).map_err(io::Error::other)? {
                Found::Frame { frame, consumed } => {
                    let out = line.take(&frame, &mut joined)?;
                    stream.write_all(&out)?;
                    buffered.drain(..consumed);
                }
                Found::Incomplete { discard } => {
                    buffered.drain(..discard);
                    break;
                }
            }
        }
    }
    Ok(())
}

struct Line {
    engines: Engines,
    connection: Option<(u16, Connection)>,
}

impl Line {
    fn new(house: &House) -> Self {
        Self {
            engines: Engines::new(house),
            connection: None,
        }
    }

    /// What goes back for a frame; often nothing.
    fn take(&mut self, frame: &Frame<'_>, joined: &mut Reassembler<'_>) -> io::Result<Vec<u8>> {
        if frame.control == Control::Snrm {
            self.connection = Some(connection(frame));
        }
        let Some((client, connection)) = &mut self.connection else {
            return Ok(Vec::new());
        };
        let mut out = [0_u8; 256];
        let event = connection.handle(frame, joined).map_err(io::Error::other)?;
        let length = match event {
            Event::AcknowledgeRequired => connection.acknowledge(&mut out),
            Event::PollRequired => connection.poll(&mut out),
            Event::Lsdu => {
                let apdu = joined.lsdu().get(LLC.len()..).unwrap_or_default();
                let reply = self.engines.answer(*client, apdu)?;
                joined.reset();
                return segments(connection, &[&LLC, reply.as_slice()].concat());
            }
            Event::Idle | Event::Connected | Event::Disconnected => Ok(0),
        };
        Ok(out[..length.map_err(io::Error::other)?].to_vec())
    }
}

/// All segments of an answer at once: this stack closes its turn with the last, whatever window was agreed.
fn segments(connection: &mut Connection, answer: &[u8]) -> io::Result<Vec<u8>> {
    let (mut all, mut out) = (Vec::new(), [0_u8; 256]);
    let mut segments = connection.segmenter(answer).map_err(io::Error::other)?;
    while let Some(length) = connection
        .next_frame(&mut segments, &mut out)
        .map_err(io::Error::other)?
    {
        all.extend_from_slice(&out[..length]);
    }
    Ok(all)
}

fn connection(snrm: &Frame<'_>) -> (u16, Connection) {
    let parameters = Parameters {
        max_info_tx: INFORMATION,
        max_info_rx: INFORMATION,
        ..Parameters::default()
    };
    let client = match snrm.source {
        Address::Single(address) => u16::from(address),
        _ => 0,
    };
    let connection = Connection::new(Role::Server, snrm.destination, snrm.source, parameters);
    (client, connection)
}
