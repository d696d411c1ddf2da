"""Reads a meter with gurux-dlms 1.0.203, a client that is not ours, and prints what it read as one JSON object.

    gurux_client.py ADDRESS:PORT LAB_KEYS [--auth none|low|hls5|hls6|hls7] [--protection plain|glo|general-glo]
                    [--transport tcp|udp|hdlc] [--information N] [--reset SCRIPT]

The invocation counter is read first, in clear, by the public client. --reset executes a script of 0.0.10.1.0.255.

gurux-dlms never checks the tag of an APDU that is authenticated and encrypted, nor the meter's counter,
so its decipher function is replaced by one that checks both: what it accepts is then worth something. Its verification
of ECDSA refuses right signatures (it divides by zero, or says no), and is replaced as well.
"""
import argparse
import contextlib
import json
import re
import socket
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from gurux_dlms import GXByteBuffer, GXReplyData
from gurux_dlms.enums import Authentication, Conformance, DataType, InterfaceType, ObjectType, Security
from gurux_dlms.ecdsa import GXPrivateKey, GXPublicKey
from gurux_dlms.ecdsa.GXEcdsa import GXEcdsa
from gurux_dlms.GXCiphering import GXCiphering
from gurux_dlms.objects import (
    GXDLMSAssociationLogicalName, GXDLMSClock, GXDLMSData, GXDLMSDisconnectControl, GXDLMSProfileGeneric,
    GXDLMSScriptTable,
)
from gurux_dlms.secure import GXDLMSSecureClient

GENERAL_GLO = 0xDB
AUTH_ENC = 0x30
AUTHS = {"none": Authentication.NONE, "low": Authentication.LOW, "hls5": Authentication.HIGH_GMAC,
         "hls6": Authentication.HIGH_SHA256, "hls7": Authentication.HIGH_ECDSA}
seen = {"general-glo": 0, "glo": 0, "counters": []}


def lab_keys(path):
    with open(path, encoding="ascii") as file:
        pairs = re.findall(r'^(\w+)\s*=\s*"([0-9A-Fa-f]*)"', file.read(), re.MULTILINE)
    return {name: bytes.fromhex(value) for name, value in pairs}


def ber_length(octets, at):
    first = octets[at]
    if first < 0x80:
        return first, at + 1
    count = first & 0x7F
    return int.from_bytes(octets[at + 1:at + 1 + count], "big"), at + 1 + count


def checked_decrypt(_cls, settings, parameter, data):
    """Takes the place of GXCiphering.decrypt: tag, title and counter must be right."""
    octets = bytes(data.array())[data.position:]
    at = 1
    title = bytes(settings.sourceSystemTitle)
    if octets[0] == GENERAL_GLO:
        length, at = ber_length(octets, at)
        if bytes(octets[at:at + length]) != title:
            raise ValueError("general-glo-ciphering by another title than the AARE's")
        at += length
        seen["general-glo"] += 1
    else:
        seen["glo"] += 1
    length, at = ber_length(octets, at)
    if at + length != len(octets):
        raise ValueError("trailing octets after a ciphered APDU")
    control = octets[at]
    counter = struct.unpack(">I", octets[at + 1:at + 5])[0]
    if control != AUTH_ENC | settings.cipher.securitySuite:
        raise ValueError(f"security control {control:02X}")
    if seen["counters"] and counter <= seen["counters"][-1]:
        raise ValueError(f"the meter's counter {counter} does not rise")
    seen["counters"].append(counter)
    body, tag = octets[at + 5:-12], octets[-12:]
    gcm = Cipher(
        algorithms.AES(bytes(settings.cipher.blockCipherKey)),
        modes.GCM(title + octets[at + 1:at + 5], tag, min_tag_length=12),
    ).decryptor()
    gcm.authenticate_additional_data(bytes([control]) + bytes(settings.cipher.authenticationKey))
    plain = gcm.update(body) + gcm.finalize()
    data.position = data.size
    parameter.security = Security.AUTHENTICATION_ENCRYPTION
    parameter.invocationCounter = counter
    return bytearray(plain)


def checked_verify(self, signature, data):
    """Takes the place of GXEcdsa.verify."""
    point = bytes(self._GXEcdsa__publicKey.rawValue)
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        public.verify(utils.encode_dss_signature(r, s), bytes(data), ec.ECDSA(hashes.SHA256()))
        return True
    except InvalidSignature:
        return False


class Meter:
    def __init__(self, address, client, transport="tcp"):
        host, port = address.rsplit(":", 1)
        self.client, self.transport = client, transport
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self.socket = socket.socket(socket.AF_INET, kind)
        self.socket.settimeout(10)
        self.socket.connect((host, int(port)))
        if transport == "hdlc":
            self.client.parseUAResponse(self.ask(self.client.snrmRequest()).data)

    def frame(self):
        if self.transport == "udp":
            return self.socket.recv(65535)
        if self.transport == "hdlc":
            head = self.exactly(3)
            return head + self.exactly((struct.unpack(">H", head[1:])[0] & 0x7FF) - 1)
        header = self.exactly(8)
        return header + self.exactly(struct.unpack(">H", header[6:])[0])

    def exactly(self, count):
        octets = b""
        while len(octets) < count:
            more = self.socket.recv(count - len(octets))
            if not more:
                raise ConnectionError("the meter closed the connection")
            octets += more
        return octets

    def ask(self, request):
        """Sends frames (one, or a list of them) and returns the complete reply."""
        reply = GXReplyData()
        for frame in request if isinstance(request, list) else [request]:
            self.send(frame, reply)
        while reply.isMoreData():
            self.send(self.client.receiverReady(reply), reply)
        return reply

    def send(self, frame, reply):
        self.socket.sendall(bytes(frame))
        reply.error = 0
        while not self.client.getData(GXByteBuffer(self.frame()), reply):
            pass
        if reply.error:
            raise ValueError(f"the meter answers {reply.error}")

    def open(self):
        self.client.parseAareResponse(self.ask(self.client.aarqRequest()).data)
        if self.client.authentication > Authentication.LOW:
            for frame in self.client.getApplicationAssociationRequest():
                reply = self.ask(frame)
                self.client.parseApplicationAssociationResponse(reply.data)

    def read(self, target, index):
        reply = self.ask(self.client.read(target, index))
        return self.client.updateValue(target, index, reply.value)

    def close(self):
        release = self.client.releaseRequest()
        if release:
            self.ask(release)
        if self.transport == "hdlc":
            self.ask(self.client.disconnectRequest())
        self.socket.close()


def new_client(args, sap, auth):
    interface = InterfaceType.HDLC if args.transport == "hdlc" else InterfaceType.WRAPPER
    client = GXDLMSSecureClient(True, sap, 1, auth, None, interface)
    if args.transport == "hdlc":
        client.hdlcSettings.maxInfoTX = client.hdlcSettings.maxInfoRX = args.information
    return client


def invocation_counter(args):
    meter = Meter(args.address, new_client(args, 16, Authentication.NONE), args.transport)
    meter.open()
    counter = meter.read(GXDLMSData("0.0.43.1.0.255"), 2)
    meter.close()
    return counter


def management_client(args, keys, counter):
    client = new_client(args, 1, AUTHS[args.auth])
    if args.auth == "low":
        client.password = keys["password"]
    if args.auth == "hls6":
        client.password = bytearray(keys["hls_secret"])
    client.ciphering.systemTitle = bytearray(keys["client_system_title"])
    if args.auth == "hls7":
        client.ciphering.signingKeyPair = (
            GXPublicKey.fromRawBytes(keys["server_signing_public_key"]),
            GXPrivateKey.fromRawBytes(keys["client_signing_private_key"]),
        )
    conformance = (Conformance.GET | Conformance.ACTION | Conformance.SELECTIVE_ACCESS
                   | Conformance.BLOCK_TRANSFER_WITH_GET_OR_READ)
    if args.protection != "plain":
        client.ciphering.security = Security.AUTHENTICATION_ENCRYPTION
        client.ciphering.securitySuite = args.suite
        client.ciphering.blockCipherKey = bytearray(keys["ek"])
        client.ciphering.authenticationKey = bytearray(keys["ak"])
        client.ciphering.invocationCounter = counter
    if args.protection == "general-glo":
        conformance |= Conformance.GENERAL_PROTECTION
    client.proposedConformance = conformance
    client.maxReceivePDUSize = args.pdu
    return client


def read_everything(meter):
    relay = GXDLMSDisconnectControl("0.0.96.3.10.255")
    profile = GXDLMSProfileGeneric("1.0.99.1.0.255")
    meter.read(profile, 3)
    in_use = meter.read(profile, 7)
    reply = meter.ask(meter.client.readRowsByEntry(profile, in_use, 1))
    newest = meter.client.updateValue(profile, 2, reply.value)
    events = GXDLMSProfileGeneric("0.0.99.98.0.255")
    meter.read(events, 3)
    return {
        "logical_device_name": bytes(meter.read(GXDLMSData("0.0.42.0.0.255"), 2)).decode("ascii"),
        "output_state": bool(meter.read(relay, 2)),
        "control_state": int(meter.read(relay, 3)),
        "control_mode": int(meter.read(relay, 4)),
        "power_failures": meter.read(GXDLMSData("0.0.96.7.21.255"), 2),
        "clock": str(meter.read(GXDLMSClock("0.0.1.0.0.255"), 2)),
        "entries_in_use": in_use,
        "newest_entry": [str(cell) for cell in newest[-1]],
        "events": [row[1] for row in meter.read(events, 2) or []],
        "objects": len(meter.read(GXDLMSAssociationLogicalName("0.0.40.0.0.255"), 2)),
    }


def reset(meter, script):
    table = GXDLMSScriptTable("0.0.10.1.0.255")
    frames = meter.client.method(table, 1, script, DataType.UINT16)
    meter.ask(frames)
    return "accepted"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("lab_keys")
    parser.add_argument("--auth", choices=list(AUTHS), default="hls5")
    parser.add_argument("--protection", choices=["plain", "glo", "general-glo"], default="glo")
    parser.add_argument("--suite", type=int, choices=[0, 1], default=0)
    parser.add_argument("--transport", choices=["tcp", "udp", "hdlc"], default="tcp")
    parser.add_argument("--information", type=int, default=128, help="octets of an HDLC information field")
    parser.add_argument("--pdu", type=int, default=512, help="the largest APDU it receives")
    parser.add_argument("--reset", type=int, metavar="SCRIPT")
    args = parser.parse_args()
    GXCiphering.decrypt = classmethod(checked_decrypt)
    GXEcdsa.verify = checked_verify
    with contextlib.redirect_stdout(sys.stderr):  # the library talks
        counter = invocation_counter(args)
        meter = Meter(args.address, management_client(args, lab_keys(args.lab_keys), counter + 1), args.transport)
        meter.open()
        result = read_everything(meter)
        result["invocation_counter"] = counter
        if args.reset:
            result["reset"] = reset(meter, args.reset)
        else:
            meter.close()
        result["answers"] = {form: seen[form] for form in ("glo", "general-glo")}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
