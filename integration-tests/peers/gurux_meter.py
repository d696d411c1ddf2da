"""A meter on gurux-dlms 1.0.203: a server that is not ours, for our client to talk to.

    gurux_meter.py HOST:PORT LAB_KEYS --auth none|low|hls5|hls6|hls7 [--ciphered] [--transport tcp|udp|hdlc] [--information N]

Prints "ready" when it listens, and one JSON object when its standard input closes: what it executed and how it was
asked. SAP 16 is the public client, in clear; SAP 1 the management client.

The library's own server cannot serve a ciphered request (its handlers call what does not exist, its AARE has wrong
lengths), so the request path is here: the library does the framing (wrapper, HDLC, FCS), reads the AARQ, encodes and
decodes A-XDR, computes the HLS5 and HLS6 answers, and keeps the objects. GCM and ECDSA are `cryptography`'s: the
library checks no tag of an encrypted APDU, and draws its signature nonces from a predictable source.
"""
import argparse
import contextlib
import json
import os
import re
import socket
import struct
import sys
import threading

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from gurux_dlms import GXByteBuffer, GXDLMSSettings, GXReplyData
from gurux_dlms._GXAPDU import _GXAPDU
from gurux_dlms.GXCiphering import GXCiphering
from gurux_dlms.GXDLMS import GXDLMS
from gurux_dlms.GXSecure import GXSecure
from gurux_dlms.enums import Authentication, InterfaceType, RequestTypes
from gurux_dlms.internal._GXCommon import _GXCommon
from gurux_dlms.internal._GXDataInfo import _GXDataInfo

AUTHS = {"none": Authentication.NONE, "low": Authentication.LOW, "hls5": Authentication.HIGH_GMAC,
         "hls6": Authentication.HIGH_SHA256, "hls7": Authentication.HIGH_ECDSA}
GLO = {0x01: 0x21, 0x08: 0x28, 0xC0: 0xC8, 0xC1: 0xC9, 0xC3: 0xCB, 0xC4: 0xCC, 0xC5: 0xCD, 0xC7: 0xCF}
PLAIN = {glo: plain for plain, glo in GLO.items()}
GENERAL_GLO = 0xDB
SNRM, UA, DISC, DM = 0x93, 0x73, 0x53, 0x1F
HOUR = 3600
ROWS = 60


class Refused(Exception):
    """An exception-response: state, service."""


def lab_keys(path):
    with open(path, encoding="ascii") as file:
        pairs = re.findall(r'^(\w+)\s*=\s*"([0-9A-Fa-f]*)"', file.read(), re.MULTILINE)
    return {name: bytes.fromhex(value) for name, value in pairs}


def take_length(octets, at):
    first = octets[at]
    if first < 0x80:
        return first, at + 1
    count = first & 0x7F
    return int.from_bytes(octets[at + 1:at + 1 + count], "big"), at + 1 + count


def length(count):
    if count < 0x80:
        return bytes([count])
    if count < 0x100:
        return bytes([0x81, count])
    return b"\x82" + struct.pack(">H", count)


def tlv(tag, content):
    return bytes([tag]) + length(len(content)) + content


def encoded(kind, value):
    """A-XDR by the library."""
    out = GXByteBuffer()
    _GXCommon.setData(None, out, kind, value)
    return bytes(out.array())


class State:
    """What all connections share."""

    def __init__(self, args):
        self.keys = lab_keys(args.lab_keys)
        self.suite = self.keys.get("suite", b"\0")[0] if len(self.keys.get("ek", b"")) != 32 else 2
        self.client_counter = 0
        self.server_counter = 5000
        self.seen = {"executed": [], "glo": 0, "general-glo": 0, "segmented": 0, "blocks": 0, "opened": 0, "rejected": []}

    def next_counter(self):
        self.server_counter += 1
        return self.server_counter


class Association:
    def __init__(self, args, state):
        self.args, self.state = args, state
        self.settings = GXDLMSSettings(True, None)
        self.settings.setUseLogicalNameReferencing(True)
        self.settings.interfaceType = InterfaceType.HDLC if args.transport == "hdlc" else InterfaceType.WRAPPER
        self.settings.cipher = GXCiphering(bytearray(state.keys["server_system_title"]))
        self.open = self.pending = False
        self.ciphered = False
        self.rest = None

    # --- APDUs -------------------------------------------------------------------------------------------------

    def answer(self, client, apdu):
        try:
            if apdu[0] == 0x60:
                return self.aarq(client, apdu)
            if apdu[0] == 0x62:
                self.open = self.pending = False
                return self.release(apdu)
            if not self.open and not self.pending:
                raise Refused(1, 1)
            if not self.ciphered:
                return self.request(apdu)
            general = apdu[0] == GENERAL_GLO
            plain = self.decipher(apdu)
            self.state.seen["general-glo" if general else "glo"] += 1
            return self.cipher(self.request(plain), general)
        except Refused as refusal:
            self.state.seen["rejected"].append(list(refusal.args))
            return b"\xD8" + bytes(refusal.args)

    def gcm(self, title, counter, control):
        return (title + struct.pack(">I", counter), bytes([control]) + self.state.keys["ak"])

    def decipher(self, apdu):
        keys, at = self.state.keys, 1
        if apdu[0] == GENERAL_GLO:
            count, at = take_length(apdu, at)
            if apdu[at:at + count] != keys["client_system_title"]:
                raise Refused(1, 5)
            at += count
        elif apdu[0] not in PLAIN:
            raise Refused(1, 2)
        count, at = take_length(apdu, at)
        body = apdu[at:]
        control, counter = body[0], struct.unpack(">I", body[1:5])[0]
        if count != len(body) or control != 0x30 | self.state.suite:
            raise Refused(1, 5)
        if counter <= self.state.client_counter:
            raise Refused(1, 6, *struct.pack(">I", self.state.client_counter + 1))
        nonce, aad = self.gcm(keys["client_system_title"], counter, control)
        gcm = Cipher(algorithms.AES(keys["ek"]), modes.GCM(nonce, body[-12:], min_tag_length=12)).decryptor()
        gcm.authenticate_additional_data(aad)
        try:
            plain = gcm.update(body[5:-12]) + gcm.finalize()
        except InvalidTag:
            raise Refused(1, 5) from None
        self.state.client_counter = counter
        return plain

    def cipher(self, plain, general):
        keys, counter = self.state.keys, self.state.next_counter()
        control = 0x30 | self.state.suite
        nonce, aad = self.gcm(keys["server_system_title"], counter, control)
        gcm = Cipher(algorithms.AES(keys["ek"]), modes.GCM(nonce)).encryptor()
        gcm.authenticate_additional_data(aad)
        body = bytes([control]) + struct.pack(">I", counter) + gcm.update(plain) + gcm.finalize() + gcm.tag[:12]
        if general and plain[0] != 0x08:
            return bytes([GENERAL_GLO]) + tlv(8, keys["server_system_title"])[1:] + length(len(body)) + body
        return tlv(GLO[plain[0]], body)

    # --- association -------------------------------------------------------------------------------------------

    def aarq(self, client, apdu):
        """The library reads the AARQ, long lengths rewritten: it knows only one octet of length."""
        settings, keys = self.settings, self.state.keys
        public = client == 16
        self.ciphered = self.args.ciphered and not public
        expected = Authentication.NONE if public else AUTHS[self.args.auth]
        fields = ber_fields(apdu)
        mechanism = fields[0x8B][-1] if 0x8B in fields else 0
        context = fields[0xA1][-1]
        information = fields[0xBE]
        _, at = take_length(information, 1)
        information = information[at:]
        if len(apdu) < 128 and not self.ciphered:
            settings.authentication = Authentication.NONE
            _GXAPDU.parsePDU(settings, None, GXByteBuffer(apdu), None)
            mechanism = int(settings.authentication)
        if context != (3 if self.ciphered else 1):
            return self.aare(1, 2, mechanism, None, None)
        if mechanism != int(expected):
            return self.aare(1, 11, mechanism, None, None)
        if self.ciphered:
            information = self.decipher(information)
        value = fields.get(0xAC, b"\0\0")[2:]
        if expected == Authentication.LOW and value != keys["password"]:
            return self.aare(1, 13, mechanism, None, None)
        proposed = int.from_bytes(information[-5:-2], "big")
        self.client_pdu = struct.unpack(">H", information[-2:])[0] or 0xFFFF
        granted = proposed & 0x40101D
        self.mechanism, self.ctos, self.stoc = expected, value, None
        if int(expected) > 1:
            self.stoc = os.urandom(32 if expected == Authentication.HIGH_ECDSA else 16)
            self.pending = True
        else:
            self.open = True
            self.state.seen["opened"] += 1
        response = b"\x08\x00\x06\x5F\x1F\x04\x00" + granted.to_bytes(3, "big") + struct.pack(">HH", 1024, 7)
        return self.aare(0, 14 if self.stoc else 0, mechanism, self.stoc, response)

    def aare(self, result, diagnostic, mechanism, challenge, response):
        context = b"\x60\x85\x74\x05\x08\x01" + bytes([3 if self.ciphered else 1])
        out = tlv(0xA1, tlv(6, context[0:7])) + b"\xA2\x03\x02\x01" + bytes([result])
        out += b"\xA3\x05\xA1\x03\x02\x01" + bytes([diagnostic])
        if self.ciphered or challenge:
            out += tlv(0xA4, tlv(4, self.state.keys["server_system_title"]))
        if challenge:
            out += b"\x88\x02\x07\x80\x89\x07\x60\x85\x74\x05\x08\x02" + bytes([mechanism])
            out += tlv(0xAA, tlv(0x80, challenge))
        if response:
            if self.ciphered:
                response = self.cipher(response, False)
            out += tlv(0xBE, tlv(4, response))
        return tlv(0x61, out)

    def release(self, apdu):
        if self.ciphered and 0xBE in ber_fields(apdu):
            response = self.cipher(b"\x08\x00\x06\x5F\x1F\x04\x00\x00\x10\x1D\x04\x00\x00\x07", False)
            return tlv(0x63, b"\x80\x01\x00" + tlv(0xBE, tlv(4, response)))
        return b"\x63\x03\x80\x01\x00"

    def pass_3(self, token):
        """Whether the client's answer is right, and the meter's own: the library computes both for HLS5 and HLS6."""
        keys, settings = self.state.keys, self.settings
        client, server = keys["client_system_title"], keys["server_system_title"]
        if self.mechanism == Authentication.HIGH_ECDSA:
            mine = b"".join([server, client, self.ctos, self.stoc])
            theirs = b"".join([client, server, self.stoc, self.ctos])
            return verified(keys["client_signing_public_key"], theirs, token), signed(keys["server_signing_private_key"], mine)
        settings.authentication = self.mechanism
        if self.mechanism == Authentication.HIGH_SHA256:
            secret = keys["hls_secret"]
            due = GXSecure.secure(settings, settings.cipher, 0, None, secret + client + server + self.stoc + self.ctos)
            own = GXSecure.secure(settings, settings.cipher, 0, None, secret + server + client + self.ctos + self.stoc)
            return token == bytes(due), bytes(own)
        settings.cipher.blockCipherKey = bytearray(keys["ek"])
        settings.cipher.authenticationKey = bytearray(keys["ak"])
        settings.cipher.securitySuite = self.state.suite
        counter = struct.unpack(">I", token[1:5])[0]
        due = GXSecure.secure(settings, settings.cipher, counter, bytearray(self.stoc), bytearray(client))
        own = GXSecure.secure(settings, settings.cipher, self.state.next_counter(), bytearray(self.ctos), bytearray(server))
        return token == bytes(due), bytes(own)

    # --- services ----------------------------------------------------------------------------------------------

    def request(self, apdu):
        kind, invoke = apdu[1], apdu[2]
        if apdu[0] == 0xC3 and kind == 1:
            return self.action(invoke, apdu)
        if self.pending:
            raise Refused(1, 1)
        if apdu[0] == 0xC0 and kind == 1:
            value = self.get(apdu)
            if isinstance(value, int):
                return bytes([0xC4, 1, invoke, 1, value])
            room = self.client_pdu - (40 if self.ciphered else 4)
            if len(value) <= room:
                return bytes([0xC4, 1, invoke, 0]) + value
            self.rest, self.block = value, 0
            return self.next_block(invoke)
        if apdu[0] == 0xC0 and kind == 2:
            if self.rest is None or struct.unpack(">I", apdu[3:7])[0] != self.block:
                return bytes([0xC4, 2, invoke, 1]) + struct.pack(">I", self.block) + b"\x01\x13"
            return self.next_block(invoke)
        raise Refused(1, 2)

    def next_block(self, invoke):
        size = self.client_pdu - 13 - (36 if self.ciphered else 0)
        part, self.rest = self.rest[:size], self.rest[size:]
        self.block += 1
        self.state.seen["blocks"] += 1
        return bytes([0xC4, 2, invoke, not self.rest]) + struct.pack(">I", self.block) + b"\0" + length(len(part)) + part

    def get(self, apdu):
        """A-XDR of an attribute, or a data-access-result."""
        what = (struct.unpack(">H", apdu[3:5])[0], ".".join(map(str, apdu[5:11])), apdu[11])
        simple = {
            (1, "0.0.42.0.0.255", 2): (9, b"GRX0000000000001"),
            (1, "0.0.43.1.0.255", 2): (6, self.state.client_counter),
            (70, "0.0.96.3.10.255", 2): (3, True),
            (70, "0.0.96.3.10.255", 3): (22, 1),
            (7, "1.0.99.1.0.255", 7): (6, ROWS),
        }
        if what in simple:
            return encoded(*simple[what])
        if what != (7, "1.0.99.1.0.255", 2):
            return 4
        rows = [(1_700_000_000 + HOUR * row, row) for row in range(ROWS)]
        if apdu[12]:
            if apdu[13] != 2:
                return 13
            selection = _GXCommon.getData(None, GXByteBuffer(apdu[14:]), _GXDataInfo())
            first, last = int(selection[0]), int(selection[1])
            rows = rows[first - 1:last or None]
        out = b"\x01" + length(len(rows))
        for when, row in rows:
            out += b"\x02\x02" + encoded(6, when) + encoded(6, row)
        return out

    def action(self, invoke, apdu):
        what = (struct.unpack(">H", apdu[3:5])[0], ".".join(map(str, apdu[5:11])), apdu[11])
        parameter = _GXCommon.getData(None, GXByteBuffer(apdu[13:]), _GXDataInfo()) if apdu[12] else None
        if what == (15, "0.0.40.0.0.255", 1) and self.pending:
            right, own = self.pass_3(bytes(parameter))
            self.pending = False
            if not right:
                self.state.seen["rejected"].append("pass 3")
                return bytes([0xC7, 1, invoke, 3, 0])
            self.open = True
            self.state.seen["opened"] += 1
            return bytes([0xC7, 1, invoke, 0, 1, 0]) + tlv(9, own)
        if self.pending:
            raise Refused(1, 1)
        if what == (9, "0.0.10.1.0.255", 1):
            self.state.seen["executed"].append(int(parameter))
            return bytes([0xC7, 1, invoke, 0, 0])
        return bytes([0xC7, 1, invoke, 4, 0])


def ber_fields(apdu):
    count, at = take_length(apdu, 1)
    fields = {}
    while at < len(apdu):
        tag = apdu[at]
        count, at = take_length(apdu, at + 1)
        fields[tag] = apdu[at:at + count]
        at += count
    return fields


def curve(octets):
    return (ec.SECP256R1(), hashes.SHA256()) if octets in (32, 64) else (ec.SECP384R1(), hashes.SHA384())


def verified(key, message, signature):
    kind, digest = curve(len(key))
    public = ec.EllipticCurvePublicKey.from_encoded_point(kind, b"\x04" + key)
    half = len(signature) // 2
    der = utils.encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    try:
        public.verify(der, message, ec.ECDSA(digest))
        return True
    except InvalidSignature:
        return False


def signed(key, message):
    kind, digest = curve(len(key))
    private = ec.derive_private_key(int.from_bytes(key, "big"), kind)
    r, s = utils.decode_dss_signature(private.sign(message, ec.ECDSA(digest)))
    return r.to_bytes(len(key), "big") + s.to_bytes(len(key), "big")


# --- transports ------------------------------------------------------------------------------------------------


def wrapper_server(args, state, listener, stop):
    """TCP: one connection at a time."""
    while not stop():
        stream, _peer = listener.accept()
        with stream:
            association, held = Association(args, state), b""
            while True:
                octets = stream.recv(4096)
                if not octets:
                    break
                held += octets
                while len(held) >= 8 and len(held) >= 8 + struct.unpack(">H", held[6:8])[0]:
                    end = 8 + struct.unpack(">H", held[6:8])[0]
                    stream.sendall(wrapped(association, held[:end]))
                    held = held[end:]


def wrapped(association, frame):
    """The library writes the answer's wrapper."""
    settings = association.settings
    settings.clientAddress, settings.serverAddress = struct.unpack(">HH", frame[2:6])
    apdu = association.answer(settings.clientAddress, frame[8:])
    return bytes(GXDLMS.getWrapperFrame(settings, 0, GXByteBuffer(apdu)))


def datagram_server(args, state, bound, _stop):
    associations = {}
    while True:
        frame, peer = bound.recvfrom(65535)
        association = associations.setdefault(peer, Association(args, state))
        if len(frame) >= 9 and struct.unpack(">H", frame[6:8])[0] == len(frame) - 8:
            bound.sendto(wrapped(association, frame), peer)


class Line:
    """HDLC: the library's frames, windows of one."""

    def __init__(self, args, state):
        self.args, self.state = args, state
        self.fresh()
        self.received, self.reply = GXByteBuffer(), GXByteBuffer()

    def fresh(self):
        self.association = Association(self.args, self.state)
        self.settings = self.association.settings
        self.settings.resetFrameSequence()
        self.info, self.reply = GXReplyData(), GXByteBuffer()

    def take(self, octets):
        self.received.set(octets)
        out = b""
        while self.received.size - self.received.position >= 9:
            before = self.received.position
            GXDLMS.getData(self.settings, self.received, self.info, None)
            if not self.info.complete:
                self.received.position = before
                break
            out += self.frame()
            self.received.trim()
        return out

    def frame(self):
        control = self.info.frameId
        if control == SNRM:
            return self.connect()
        if control == DISC:
            out = GXDLMS.getHdlcFrame(self.settings, UA, GXByteBuffer())
            self.fresh()
            return bytes(out)
        if self.info.moreData & RequestTypes.FRAME and control & 1 == 0:
            self.state.seen["segmented"] += 1
            return bytes(GXDLMS.getHdlcFrame(self.settings, self.settings.getReceiverReady(), GXByteBuffer()))
        if control & 1:  # RR: the client asks for the next segment
            self.state.seen["segmented"] += 1
            self.info.clear()
            return bytes(GXDLMS.getHdlcFrame(self.settings, self.settings.getNextSend(False), self.reply))
        apdu = bytes(self.info.data.array())
        self.info.clear()
        answer = self.association.answer(self.settings.clientAddress, apdu)
        self.reply = GXByteBuffer(b"\xE6\xE7\x00" + answer)
        return bytes(GXDLMS.getHdlcFrame(self.settings, 0, self.reply))

    def connect(self):
        asked = GXByteBuffer(bytes(self.info.data.array()))
        hdlc = self.settings.hdlc
        GXDLMS.parseSnrmUaResponse(asked, hdlc)
        hdlc.maxInfoTX = min(hdlc.maxInfoTX, self.args.information)
        hdlc.maxInfoRX = min(hdlc.maxInfoRX, self.args.information)
        body = b""
        for tag, value in ((5, hdlc.maxInfoTX), (6, hdlc.maxInfoRX)):
            body += bytes([tag, 1, value]) if value < 256 else bytes([tag, 2]) + struct.pack(">H", value)
        body += b"\x07\x04\0\0\0\x01\x08\x04\0\0\0\x01"
        self.info.clear()
        self.settings.resetFrameSequence()
        answer = GXByteBuffer(b"\x81\x80" + bytes([len(body)]) + body)
        return bytes(GXDLMS.getHdlcFrame(self.settings, UA, answer))


def hdlc_server(args, state, listener, stop):
    # what an information field holds is for `Association.answer`, not for the library's own request path
    GXDLMS.getPdu = classmethod(lambda _cls, _settings, data: None)
    while not stop():
        stream, _peer = listener.accept()
        with stream:
            line = Line(args, state)
            while True:
                octets = stream.recv(4096)
                if not octets:
                    break
                answer = line.take(octets)
                if answer:
                    stream.sendall(answer)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("lab_keys")
    parser.add_argument("--auth", choices=list(AUTHS), required=True)
    parser.add_argument("--ciphered", action="store_true")
    parser.add_argument("--transport", choices=["tcp", "udp", "hdlc"], default="tcp")
    parser.add_argument("--information", type=int, default=64)
    args = parser.parse_args()
    host, port = args.address.rsplit(":", 1)
    state = State(args)
    kind = socket.SOCK_DGRAM if args.transport == "udp" else socket.SOCK_STREAM
    bound = socket.socket(socket.AF_INET, kind)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, int(port)))
    if kind == socket.SOCK_STREAM:
        bound.listen(4)
    serve = {"tcp": wrapper_server, "udp": datagram_server, "hdlc": hdlc_server}[args.transport]
    print("ready", flush=True)
    with contextlib.redirect_stdout(sys.stderr):  # the library talks
        threading.Thread(target=serve, args=(args, state, bound, lambda: False), daemon=True).start()
    sys.stdin.read()
    print(json.dumps(state.seen), flush=True)


if __name__ == "__main__":
    main()
