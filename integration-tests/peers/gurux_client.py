"""Reads a meter over HLS5 with gurux-dlms 1.0.203, a client that is not ours, and prints what it read as one JSON object.

    gurux_client.py ADDRESS:PORT LAB_KEYS [--protection glo|general-glo] [--reset SCRIPT]

The invocation counter is read first, in clear, by the public client. --reset executes a script of 0.0.10.1.0.255.

gurux-dlms never checks the tag of an APDU that is authenticated and encrypted, nor the meter's counter,
so its decipher function is replaced by one that checks both: what it accepts is then worth something.
"""
import argparse
import contextlib
import json
import re
import socket
import struct
import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from gurux_dlms import GXByteBuffer, GXReplyData
from gurux_dlms.enums import Authentication, Conformance, DataType, InterfaceType, ObjectType, Security
from gurux_dlms.GXCiphering import GXCiphering
from gurux_dlms.objects import (
    GXDLMSAssociationLogicalName, GXDLMSClock, GXDLMSData, GXDLMSDisconnectControl, GXDLMSProfileGeneric,
    GXDLMSScriptTable,
)
from gurux_dlms.secure import GXDLMSSecureClient

GENERAL_GLO = 0xDB
AUTH_ENC = 0x30
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
    if control != AUTH_ENC:
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


class Meter:
    def __init__(self, address, client):
        host, port = address.rsplit(":", 1)
        self.client = client
        self.socket = socket.create_connection((host, int(port)), timeout=10)

    def frame(self):
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
        self.socket.close()


def invocation_counter(address):
    client = GXDLMSSecureClient(True, 16, 1, Authentication.NONE, None, InterfaceType.WRAPPER)
    meter = Meter(address, client)
    meter.open()
    counter = meter.read(GXDLMSData("0.0.43.1.0.255"), 2)
    meter.close()
    return counter


def management_client(keys, counter, protection):
    client = GXDLMSSecureClient(True, 1, 1, Authentication.HIGH_GMAC, None, InterfaceType.WRAPPER)
    client.ciphering.security = Security.AUTHENTICATION_ENCRYPTION
    client.ciphering.systemTitle = bytearray(keys["client_system_title"])
    client.ciphering.blockCipherKey = bytearray(keys["ek"])
    client.ciphering.authenticationKey = bytearray(keys["ak"])
    client.ciphering.invocationCounter = counter
    conformance = (Conformance.GET | Conformance.ACTION | Conformance.SELECTIVE_ACCESS
                   | Conformance.BLOCK_TRANSFER_WITH_GET_OR_READ)
    if protection == "general-glo":
        conformance |= Conformance.GENERAL_PROTECTION
    client.proposedConformance = conformance
    client.maxReceivePDUSize = 512
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
    parser.add_argument("--protection", choices=["glo", "general-glo"], default="glo")
    parser.add_argument("--reset", type=int, metavar="SCRIPT")
    args = parser.parse_args()
    GXCiphering.decrypt = classmethod(checked_decrypt)
    with contextlib.redirect_stdout(sys.stderr):  # the library talks
        counter = invocation_counter(args.address)
        meter = Meter(args.address, management_client(lab_keys(args.lab_keys), counter + 1, args.protection))
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
