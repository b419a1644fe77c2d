"""libvirt's XML in code that reads like it."""

from __future__ import annotations

from xml.etree import ElementTree


class Element:
    """An element of ElementTree whose children are added as they will stand."""

    def __init__(self, tag: str, text: str | None = None, **attributes: str) -> None:
        self.element = ElementTree.Element(tag, attributes)
        self.element.text = text

    def add(self, tag: str, text: str | None = None, **attributes: str) -> Element:
        child = Element(tag, text, **attributes)
        self.element.append(child.element)
        return child


def add_pci_slot(device: Element, slot: int, *, bus: int = 0) -> None:
    device.add("address", type="pci", domain="0", bus=str(bus), slot=str(slot), function="0")
