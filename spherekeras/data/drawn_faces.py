"""Faces drawn from numbers: unlimited identities with exact landmarks, no data and no network.

An identity number seeds an anatomy (head, skin, hair, eyes, nose, mouth, glasses, beard); a picture
number seeds what differs between two photographs of one person (pose, expression, light, camera,
background). Both act on one small 3-D head seen in perspective, so that the five landmarks are the
projections of the points that were drawn. The faces stand in for photographs where none may be
shipped: in a quickstart, in tests and in demonstrations. They say nothing about real people.

Lengths are in units of the mean distance between the eyes; x points to the right of the image, y
down, z towards the viewer, and the eyes lie at y = 0.
"""

import dataclasses
import functools
import math
import operator
import os
import pathlib
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from spherekeras.errors import DataError
from spherekeras.files import atomic_path

Points = np.ndarray
Colour = np.ndarray

_SUPERSAMPLE = 2
_PICTURES_A_SEED = 1_000_000


def _colours(table: str) -> np.ndarray:
    return np.array([list(bytes.fromhex(colour)) for colour in table.split()], float)


_SKIN = _colours("fadac6 f3ccb0 ecbe9b d8a37c bb835e 966446 744b36 5a3a2c")
_HAIR = _colours("1e1a1c 362620 583a28 7a4a2e 8e4226 c26836 a47e50 d8b474 ecd8ac 969494 dedcd8")
_IRIS = _colours("3e2618 684226 846638 627e54 5480b0 80909a")
_LIPSTICK = _colours("be1e32 961e46 cd505a")
_FRAMES = _colours("1e1c20 603c22 781e28 96969c")


@dataclasses.dataclass(frozen=True)
class DrawnFace:
    """A drawn picture and where its landmarks are.

    Attributes:
        image: RGB uint8 of shape `(height, width, 3)`.
        landmarks: float64 of shape `(5, 2)`, x and y in pixels (the centre of the first pixel is
            0, 0): the eye on the left of the image, the eye on the right, the nose tip, the left
            and the right mouth corner.
        identity: the number of the person.
    """

    image: np.ndarray
    landmarks: np.ndarray
    identity: int


@dataclasses.dataclass(frozen=True)
class _Anatomy:
    """What stays with a person."""

    width: float
    forehead: float
    cheek: float
    jaw: float
    chin_width: float
    chin: float
    crown: float
    skin: Colour
    blush: float
    age: float
    freckles: Points
    moles: Points
    hair: Colour
    style: str
    hairline: float
    temple: float
    volume: float
    side: float
    length: float
    strands: Points
    eye_gap: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    iris: Colour
    iris_size: float
    lash: float
    brow_height: float
    brow_thickness: float
    brow_angle: float
    brow_arch: float
    brow: Colour
    nose: float
    nose_width: float
    nose_lift: float
    bridge: float
    mouth: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    lip: Colour
    ear: float
    glasses: str
    frame: Colour
    beard: str


@dataclasses.dataclass(frozen=True)
class _Shot:
    """What changes from one photograph to the next."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: Points
    distance: float
    smile: float
    gape: float
    raise_brows: float
    blink: float
    gaze: Points
    light: Points
    ambient: float
    exposure: float
    cast: Colour
    blur: float
    noise: float
    grain: int
    backdrop: np.ndarray
    shirt: Colour


def _mix(a: Colour, b: Colour | tuple[int, int, int], share: float) -> Colour:
    return np.asarray(a) * (1 - share) + np.asarray(b, float) * share


@functools.lru_cache(maxsize=4096)
def _anatomy(identity: int) -> _Anatomy:
    rng = np.random.default_rng([0xFACE, identity])
    u = rng.uniform
    masculine = rng.random() < 0.5
    age = rng.random() ** 1.5
    tone = rng.random() ** 1.15 * 6.6
    low = int(tone)
    skin = _mix(_SKIN[low], _SKIN[low + 1], tone - low) * u(0.985, 1.015, 3)
    hues = np.array([3, 3, 3, 2, 1, 1, 1.6, 1.4, 0.5, 0.3, 0.1])
    if tone > 3:
        hues[3:9] *= 0.12
    if age > 0.7:
        hues[9:] *= 20 * age
    hair = _HAIR[rng.choice(len(_HAIR), p=hues / hues.sum())] * u(0.85, 1.1) * u(0.97, 1.03, 3)
    styles = (
        ["bald", "buzz", "short", "short", "swept", "swept", "spiky", "curly", "receding", "long"]
        if masculine
        else ["bob", "bob", "curtain", "curtain", "long", "long", "bun", "swept", "afro", "curly"]
    )
    if masculine and age < 0.35:
        styles = styles[1:8]
    iris_odds = np.array([3, 3, 1.5, 1, 2, 1.0])
    if tone > 3:
        iris_odds[2:] *= 0.1
    lip = _mix(skin, (176, 66, 72), u(0.25, 0.5))
    if not masculine and rng.random() < 0.35:
        lip = _mix(lip, _LIPSTICK[rng.integers(3)], 0.6)
    spots = int(rng.integers(25, 60)) if tone < 2.2 and rng.random() < 0.25 else 0
    beards = ["none", "none", "stubble", "moustache", "goatee", "full"]
    return _Anatomy(
        width=u(1.02, 1.2),
        forehead=u(0.86, 0.98),
        cheek=u(0.88, 1.0),
        jaw=u(0.66, 0.8) + 0.08 * masculine,
        chin_width=u(0.3, 0.44) + 0.07 * masculine,
        chin=u(1.64, 1.88) + 0.06 * masculine,
        crown=u(1.62, 1.85),
        skin=skin,
        blush=u(0, 1),
        age=age,
        freckles=np.stack(
            [rng.normal(0, 0.4, spots).clip(-0.8, 0.8), rng.normal(0.45, 0.16, spots)], 1
        ),
        moles=np.stack([u(-0.75, 0.75, 3), u(0.3, 1.5, 3)], 1)[: max(0, rng.integers(-4, 3))],
        hair=np.clip(hair, 12, 250),
        style=str(rng.choice(styles)),
        hairline=u(-1.2, -0.98),
        temple=u(0.0, 0.3),
        volume=u(0.06, 0.2),
        side=float(rng.choice([-1.0, 1.0])),
        length=u(1.3, 2.9),
        strands=rng.random((40, 4)),
        eye_gap=u(0.455, 0.53),
        eye_width=u(0.275, 0.345),
        eye_height=u(0.13, 0.195) - 0.015 * masculine,
        eye_tilt=u(-0.035, 0.06),
        iris=_IRIS[rng.choice(len(_IRIS), p=iris_odds / iris_odds.sum())]
        * u(0.85, 1.15)
        * u(0.95, 1.05, 3),
        iris_size=u(0.132, 0.158),
        lash=u(0.2, 0.5) + 0.5 * (1 - masculine),
        brow_height=u(0.32, 0.44) - 0.04 * masculine,
        brow_thickness=u(0.035, 0.075) + 0.03 * masculine,
        brow_angle=u(-0.06, 0.01),
        brow_arch=u(0.01, 0.09),
        brow=_mix(hair * 0.75, (40, 28, 24), u(0.1, 0.5)),
        nose=u(0.54, 0.7),
        nose_width=u(0.17, 0.26) + 0.03 * masculine,
        nose_lift=u(0.26, 0.44),
        bridge=u(0.055, 0.1),
        mouth=u(1.06, 1.22),
        mouth_width=u(0.34, 0.48),
        upper_lip=u(0.05, 0.11),
        lower_lip=u(0.07, 0.14),
        lip=lip,
        ear=u(0.8, 1.15),
        glasses=str(rng.choice(["none", "none", "none", "none", "round", "square"])),
        frame=_FRAMES[rng.integers(4)],
        beard=str(rng.choice(beards)) if masculine and age > 0.15 else "none",
    )


def _shot(identity: int, picture: int) -> _Shot:
    rng = np.random.default_rng([0x5407, identity, picture])
    u = rng.uniform
    light = np.array([u(-0.6, 0.6), u(-0.65, 0.0), u(0.6, 0.9)])
    base = u(50, 215) + u(-28, 28, 3)
    return _Shot(
        yaw=float(np.clip(rng.normal(0, 0.17), -0.45, 0.45)),
        pitch=float(np.clip(rng.normal(0, 0.11), -0.28, 0.28)),
        roll=float(np.clip(rng.normal(0, 0.09), -0.3, 0.3)),
        scale=u(0.195, 0.24),
        shift=np.array([u(-0.04, 0.04), u(-0.03, 0.03)]),
        distance=u(8, 14),
        smile=float(np.clip(rng.normal(0.5, 0.4), -0.2, 1)),
        gape=float(max(0.0, rng.normal(-0.1, 0.35))),
        raise_brows=float(np.clip(rng.normal(0, 0.4), -0.8, 1)),
        blink=1.0 if rng.random() < 0.05 else float(u(0, 0.3)),
        gaze=np.array([rng.normal(0, 0.035), rng.normal(0, 0.015)]).clip(-0.07, 0.07),
        light=light / np.linalg.norm(light),
        ambient=u(0.48, 0.75),
        exposure=u(0.85, 1.12),
        cast=1 + rng.normal(0, 0.03, 3),
        blur=float(u(0, 0.75)),
        noise=float(u(1, 5)),
        grain=int(rng.integers(2**32)),
        backdrop=np.clip(
            base + rng.normal(0, 20, (4, 4, 1)) + rng.normal(0, 9, (4, 4, 3)), 0, 255
        ).astype(np.uint8),
        shirt=u(30, 215) + u(-30, 35, 3),
    )


@functools.lru_cache(maxsize=256)
def _spline(count: int, closed: bool, steps: int) -> np.ndarray:
    """Weights of a Catmull-Rom curve through `count` points, shape (samples, count)."""
    t = np.arange(steps) / steps
    weights = 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1
    )
    segments = count if closed else count - 1
    matrix = np.zeros((segments * steps + (not closed), count))
    for segment in range(segments):
        for k in range(4):
            at = segment - 1 + k
            at = at % count if closed else min(max(at, 0), count - 1)
            matrix[segment * steps : (segment + 1) * steps, at] += weights[:, k]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def _curve(points: object, closed: bool = True, steps: int = 5) -> Points:
    """A smooth curve through the given points, shape (samples, 2 or 3)."""
    knots = np.asarray(points, float)
    return _spline(len(knots), closed, steps) @ knots


_MIRROR = np.array([-1.0, 1.0])
_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)


def _ellipse(x: float, y: float, a: float, b: float, tilt: float = 0.0) -> Points:
    c, s = math.cos(tilt), math.sin(tilt)
    return _CIRCLE @ np.array([(a * c, a * s), (-b * s, b * c)]) + (x, y)


def _loop(right: object) -> Points:
    """A closed outline from its right half, which starts and ends on the middle line."""
    points = np.asarray(right, float)
    return np.concatenate([points, (points * _MIRROR)[::-1][points[::-1, 0] > 0]])


def _both(right: object) -> Points:
    """A curve from the middle to the right, continued to its mirror image on the left."""
    points = np.asarray(right, float)
    return np.concatenate([(points * _MIRROR)[:0:-1], points])


class _Head:
    """The 3-D head of one picture: where its surface is, and where the camera sees it."""

    def __init__(self, who: _Anatomy, shot: _Shot, size: tuple[int, int]) -> None:
        drop = 0.1 * min(shot.gape, 1.0)
        chin = who.chin + drop
        right = np.array(
            [
                (0.34, -0.97 * who.crown),
                (0.72 * who.forehead, -0.84 * who.crown),
                (who.forehead, -1.0),
                (0.97 * who.forehead + 0.03 * who.width, -0.5),
                (1.0, 0.05),
                (who.cheek, 0.72),
                (who.jaw, 1.22 + drop / 2),
                (who.chin_width, 0.945 * chin),
            ]
        )
        loop = np.concatenate(
            [[(0.0, -who.crown)], right, [(0.0, chin)], right[::-1] * (-1, 1)]
        ) * (who.width, 1)
        half = _curve(loop)[: 5 * 9 + 1]
        self.chin = chin
        self.half_width = np.maximum(half[:, 0], 1e-3)
        self.level = np.maximum.accumulate(half[:, 1])
        up = np.clip(-self.level / who.crown, 0, 1)
        self.front = 1.2 * np.sqrt(1 - 0.98 * up**3) - 0.1 * np.clip(self.level - 1.3, 0, 1)
        self.back = 1.3 * np.sqrt(np.clip(1 - up**2, 0, 1))
        self.back *= np.sqrt(np.clip(1 - (np.clip(self.level, 0, None) / 1.3) ** 2, 0, 1))

        cy, sy, cp, sp = np.cos(shot.yaw), np.sin(shot.yaw), np.cos(shot.pitch), np.sin(shot.pitch)
        cr, sr = np.cos(shot.roll), np.sin(shot.roll)
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        self.rotation = lean @ nod @ turn
        height, width = size
        self.scale = shot.scale * min(size)
        self.distance = shot.distance
        centre = np.array([width / 2 - 0.5, 0.5 * height - 0.5])
        self.centre = (
            centre
            + shot.shift * min(size)
            - (self.rotation @ (0, 0.1, 0.8))[:2] * (0.6 * self.scale)
        )

    def project(self, points: Points) -> Points:
        """Pixels (n, 2) of points (n, 3) of the head."""
        seen = points @ self.rotation.T
        zoom = self.scale * self.distance / (self.distance - seen[:, 2:])
        return self.centre + seen[:, :2] * zoom

    def on(self, xy: Points, lift: float | np.ndarray = 0.0) -> Points:
        """The points (n, 3) of the surface over `xy` (n, 2), `lift` in front of it."""
        x, y = xy[:, 0], xy[:, 1]
        across = x / np.interp(y, self.level, self.half_width)
        points = np.empty((len(xy), 3))
        points[:, :2] = xy
        points[:, 2] = np.interp(y, self.level, self.front) * np.sqrt(
            np.maximum(1 - across * across, 0)
        )
        points[:, 2] += lift
        return points

    def see(self, xy: Points, lift: float | np.ndarray = 0.0) -> Points:
        """Pixels of points given on the surface."""
        return self.project(self.on(xy, lift))

    def at(self, angle: Points, level: Points, grow: float = 0.0) -> Points:
        """Points (n, 3) around the head: angle 0 is right, pi/2 front; `grow` off the surface."""
        across = np.interp(level, self.level, self.half_width) + grow
        front, back = (np.interp(level, self.level, depth) for depth in (self.front, self.back))
        sine = np.sin(angle)
        return np.column_stack(
            [
                across * np.cos(angle),
                level - grow * np.clip(-level, 0, 1),
                (np.where(sine > 0, front, back) + grow) * sine,
            ]
        )

    def shell(self, start: float, stop: float, low: float, high: float, grow: float = 0) -> Points:
        """The points of the head between two angles and two levels."""
        level = self.level[(self.level >= low) & (self.level <= high)]
        angle = np.linspace(start, stop, 21)
        return self.at(np.tile(angle, len(level)), np.repeat(level, 21), grow)


class _Canvas:
    """An RGB picture at twice the size, filled with anti-aliased polygons given in pixels."""

    def __init__(self, backdrop: np.ndarray, size: tuple[int, int], unit: float) -> None:
        self.unit = unit * _SUPERSAMPLE
        soft = cv2.resize(backdrop, (40, 40), interpolation=cv2.INTER_CUBIC)
        self.image = cv2.resize(soft, (size[1] * _SUPERSAMPLE, size[0] * _SUPERSAMPLE))

    @staticmethod
    def fixed(pixels: Points) -> np.ndarray:
        """Canvas coordinates in sixteenths, from pixels of the final picture."""
        return np.rint(pixels * (16 * _SUPERSAMPLE) + 8 * (_SUPERSAMPLE - 1)).astype(np.int32)

    @staticmethod
    def ink(colour: Colour) -> list[float]:
        return [min(max(channel, 0.0), 255.0) for channel in colour.tolist()]

    def fill(self, pixels: Points, colour: Colour) -> None:
        cv2.fillPoly(self.image, [self.fixed(pixels)], self.ink(colour), cv2.LINE_AA, 4)

    def line(self, pixels: Points | list[Points], colour: Colour, width: float) -> None:
        """Open curves, `width` in units of the head."""
        lines = pixels if isinstance(pixels, list) else [pixels]
        fixed = [self.fixed(line) for line in lines]
        thick = max(1, round(width * self.unit))
        cv2.polylines(self.image, fixed, False, self.ink(colour), thick, cv2.LINE_AA, 4)

    def window(
        self, pixels: Points, margin: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A view of the picture around a polygon, the polygon's mask in it, and its corner."""
        fixed = self.fixed(pixels)
        height, width = self.image.shape[:2]
        pad = round(margin * self.unit) + 1
        (left, top), (right, bottom) = fixed.min(0) // 16 - pad, fixed.max(0) // 16 + pad + 1
        left, top = max(0, min(left, width)), max(0, min(top, height))
        region = self.image[top : max(top, bottom), left : max(left, right)]
        mask = np.zeros(region.shape[:2], np.uint8)
        corner = np.array([left, top], np.int32) * 16
        if mask.size:
            cv2.fillPoly(mask, [fixed - corner], 255, cv2.LINE_AA, 4)
        return region, mask, corner

    def blend(self, pixels: Points, share: float, colour: Colour) -> None:
        """A translucent polygon."""
        region, mask, _ = self.window(pixels)
        self.merge(region, mask, share, colour)

    @staticmethod
    def merge(region: np.ndarray, mask: np.ndarray, share: float, colour: np.ndarray) -> None:
        weight = mask[..., None] * np.float32(share / 255)
        region[...] = region + (np.asarray(colour, np.float32) - region) * weight


def _hull(pixels: Points) -> Points:
    return cv2.convexHull(pixels.astype(np.float32))[:, 0].astype(float)


def _grow(who: _Anatomy) -> float:
    """How far the hair stands off the head."""
    fixed = {"bald": 0.0, "buzz": 0.03, "receding": 0.05, "curly": 0.08 + who.volume, "afro": 0.3}
    return fixed.get(who.style, 0.05 + 0.6 * who.volume)


_LOOSE = {"long", "bob", "curtain", "afro"}  # hair that hides the ears


def _draw_body(canvas: _Canvas, head: _Head, who: _Anatomy, shot: _Shot) -> None:
    """Long hair behind the neck, the neck and the shoulders."""
    if who.style in ("long", "bob", "curtain"):
        low, wide = who.length, who.width + _grow(who)
        fall = _curve(
            [
                (0.0, -0.5, -0.4),
                (wide, -0.3, -0.3),
                (wide + 0.12, 0.5 * low, -0.3),
                (wide + 0.06, 0.9 * low, -0.25),
                (0.7 * wide, low + 0.08, -0.2),
                (-0.7 * wide, low + 0.08, -0.2),
                (-wide - 0.06, 0.9 * low, -0.25),
                (-wide - 0.12, 0.5 * low, -0.3),
                (-wide, -0.3, -0.3),
            ]
        )
        canvas.fill(head.project(fall), who.hair * 0.7)
    neck = head.project(np.array([(0.0, who.chin - 0.15, -0.1)]))[0]
    half = (0.6 * who.jaw + 0.18) * who.width

    def place(points: object) -> Points:
        return neck + _both(points) * head.scale

    throat = place([(0, 1.1), (half + 0.5, 0.75), (half, 0.35), (half, -0.7)])
    canvas.fill(throat, who.skin * 0.93)
    region, mask, corner = canvas.window(throat)
    shadow = np.zeros_like(mask)
    jaw = _hull(head.project(head.shell(0, np.pi, 0.3, 9)))
    jaw += np.array([-0.15 * shot.light[0], 0.28]) * head.scale
    cv2.fillPoly(shadow, [canvas.fixed(jaw) - corner], 255, cv2.LINE_AA, 4)
    shadow = np.minimum(mask, cv2.blur(shadow, (max(1, round(0.2 * canvas.unit)),) * 2))
    canvas.merge(region, shadow, 0.55, who.skin * (0.62, 0.5, 0.46))
    collar = _curve([(0.0, 0.95), (0.35, 0.8), (half + 0.1, 0.42)], closed=False)
    shoulder = [(half + 0.1, 0.42), (half + 0.6, 0.66), (2.0, 0.95), (2.5, 1.6)]
    outline = np.concatenate([collar, _curve(shoulder, closed=False), [(2.6, 9.0)]])
    canvas.fill(place(outline), shot.shirt)
    canvas.line(place(collar), shot.shirt * 0.8, 0.035)


def _draw_scalp(canvas: _Canvas, head: _Head, who: _Anatomy) -> Points:
    """The back of the head, its hair and the ears; returns their outline in pixels."""
    outline = _hull(head.project(head.shell(0, 2 * np.pi, -9, 0.3)))
    canvas.fill(outline, who.skin * 0.9)
    grow = _grow(who)
    loose = who.style in _LOOSE
    if who.style == "bun":
        bun = head.project(np.array([(0.0, -who.crown - 0.25, -0.4)]))[0]
        canvas.fill(_ellipse(bun[0], bun[1], 0.45 * head.scale, 0.4 * head.scale), who.hair * 0.9)
    if who.style != "bald":
        top = -0.75 if who.style == "receding" else -9
        low = {"afro": 0.2, "curly": -0.1}.get(who.style, 0.5 if loose else 0.12)
        shell = head.shell(0, 2 * np.pi, top, low, grow)
        outline = _hull(head.project(shell))
        canvas.fill(outline, who.hair)
    random = who.strands
    if who.style in ("curly", "afro"):
        angle, level = 2 * np.pi * random[:, 0], -who.crown + (low + who.crown) * random[:, 1]
        angle[:4], level[:4] = (0, np.pi, 0.5, np.pi - 0.5), low  # round off the corners
        curls = head.project(head.at(angle, level, grow - 0.03))
        for (x, y), (_, _, r, tone) in zip(curls, random, strict=True):
            r = (0.1 + 0.1 * r) * head.scale
            canvas.fill(_ellipse(x, y, r, r), who.hair * (0.88 + 0.24 * tone))
    elif who.style not in ("bald", "receding"):
        angle = 2 * np.pi * random[:, :1] + np.linspace(0, 0.3, 6)
        level = -0.97 * who.crown + np.linspace(0, 1, 6) * (0.6 + 0.8 * who.crown * random[:, 1:2])
        hairs = head.project(head.at(angle.ravel(), level.ravel(), grow - 0.03)).reshape(-1, 6, 2)
        wide = 0.012 if who.style == "buzz" else 0.03
        canvas.line(list(hairs[::2]), who.hair * 1.15 + 6, wide)
        canvas.line(list(hairs[1::2]), who.hair * 0.84, wide)
    if not loose:
        for side in (-1.0, 1.0):
            for size, tone in ((1.0, 0.94), (0.6, 0.78)):
                across, along = (_CIRCLE * (0.17, 0.34) * (who.ear * size)).T
                x = side * (who.width + 0.02 + 0.8 * across)
                ear = np.column_stack([x, 0.17 + along - 0.25 * across, -0.1 - 0.6 * across])
                canvas.fill(head.project(ear), who.skin * (tone, 0.97 * tone, 0.96 * tone))
    return outline


def _draw_skin(canvas: _Canvas, head: _Head, who: _Anatomy) -> Points:
    """The face without its features; returns its outline in pixels."""
    face = head.shell(0, np.pi, -9, 9)
    if who.style != "bald":
        line = -1.42 if who.style == "receding" else who.hairline
        rise = (0.75 - who.temple) * (face[:, 0] / who.width) ** 4
        face = face[face[:, 1] > line + rise]
    outline = _hull(head.project(face))
    canvas.fill(outline, who.skin)
    for x, y in who.freckles:
        canvas.fill(head.see(_ellipse(x, y, 0.012, 0.012)), who.skin * (0.88, 0.8, 0.74))
    for x, y in who.moles:
        canvas.fill(head.see(_ellipse(x, y, 0.024, 0.024)), who.skin * (0.6, 0.5, 0.46))
    lines = []
    if who.age > 0.6:
        for level in (-0.62, -0.76, -0.9):
            x = np.linspace(-0.45, 0.45, 9) * (1 - 0.3 * (level + 0.76))
            lines.append(head.see(np.stack([x, level + 0.03 * np.cos(5 * x)], 1)))
    if who.age > 0.35:
        for side in (-1.0, 1.0):
            fold = np.array([(0.3, 0.62), (0.46, 0.85), (who.mouth_width + 0.14, who.mouth)])
            lines.append(head.see(_curve(fold * (side, 1), closed=False)))
    if lines:
        fade = 0.94 - 0.12 * who.age
        canvas.line(lines, who.skin * (fade, fade - 0.04, fade - 0.06), 0.018)
    return outline


def _draw_beard(canvas: _Canvas, head: _Head, who: _Anatomy, shot: _Shot) -> None:
    colour = _mix(who.brow, who.hair, 0.5)
    lip = who.mouth - 0.03
    if who.beard in ("stubble", "full"):
        grow = 0.06 if who.beard == "full" else 0.0
        jaw = head.shell(0, np.pi, 0.2, 9, grow)
        jaw[:, 1] += 1.6 * grow * (jaw[:, 1] > 1)
        region, mask, corner = canvas.window(_hull(head.project(jaw)))
        cheek = _curve(
            [(0.0, lip - 0.2), (0.3, lip - 0.18), (0.62, 0.95), (0.86, 0.5), (1.0, 0.1)],
            closed=False,
        )
        far = head.project(np.array([(2.5, -1.0, 1.0), (-2.5, -1.0, 1.0)]))
        above = np.concatenate([head.see(_both(cheek * (who.width, 1))), far])
        cv2.fillPoly(mask, [canvas.fixed(above) - corner], 0, cv2.LINE_AA, 4)
        mask = cv2.GaussianBlur(mask, (0, 0), 0.05 * canvas.unit)
        canvas.merge(region, mask, 0.92 if who.beard == "full" else 0.3, colour)
    if who.beard in ("moustache", "goatee"):
        wide = who.mouth_width * (1 + 0.15 * shot.smile)
        upper = [(0, lip - 0.2), (0.6 * wide, lip - 0.15), (1.1 * wide, lip + 0.06)]
        lower = [(0.5 * wide, lip - 0.04), (0, lip - 0.06)]
        canvas.blend(head.see(_curve(_loop(upper + lower)), 0.03), 0.92, colour)
    if who.beard == "goatee":
        under = lip + 0.34 + 0.1 * shot.gape
        tuft = [(0, under), (0.2, under + 0.03), (0.36, head.chin - 0.2)]
        tuft += [(0.2, head.chin + 0.06), (0, head.chin + 0.1)]
        canvas.blend(head.see(_curve(_loop(tuft)), 0.03), 0.92, colour)


def _draw_nose(canvas: _Canvas, head: _Head, who: _Anatomy) -> None:
    base, wide = who.nose + 0.1, who.nose_width
    shade = who.skin * (0.84, 0.75, 0.71)
    under = [(0, base - 0.04), (0.6 * wide, base - 0.03), (wide, base - 0.03)]
    under += [(0.6 * wide, base + 0.025), (0, base + 0.04)]
    canvas.blend(head.see(_curve(_loop(under)), 0.5 * who.nose_lift), 0.35, shade)
    for side in (-1.0, 1.0):
        hole = _ellipse(side * 0.5 * wide, base, 0.3 * wide, 0.026, side * 0.25)
        canvas.blend(head.see(hole, 0.55 * who.nose_lift), 0.7, who.skin * (0.45, 0.32, 0.3))
        wing = np.array([(0.85, -0.16), (1.08, -0.08), (1.06, 0.0), (0.86, 0.03)])
        wing = _curve(wing * (wide * side, 1) + (0, base), closed=False)
        canvas.line(head.see(wing, 0.3 * who.nose_lift), shade, 0.022)


def _draw_mouth(canvas: _Canvas, head: _Head, who: _Anatomy, shot: _Shot) -> Points:
    """Draws the mouth; returns the pixels of its left and right corner."""
    wide = who.mouth_width * (1 + 0.18 * shot.smile - 0.1 * shot.gape)
    gap = 0.2 * min(shot.gape, 1.2)

    def bent(xy: Points) -> Points:
        return np.stack(
            [xy[:, 0] * wide, xy[:, 1] + who.mouth - 0.11 * shot.smile * xy[:, 0] ** 2], 1
        )

    u, v = who.upper_lip, who.lower_lip * (1 - 0.2 * max(shot.smile, 0))
    top, inner_top, inner_low, low = (
        bent(_curve(_both(right), closed=False))
        for right in (
            [(0, -0.8 * u), (0.2, -u), (0.6, -0.6 * u), (1.0, 0)],
            [(0, -0.1 * gap), (0.5, -0.15 * gap), (1.0, 0)],
            [(0, 0.9 * gap), (0.5, 0.7 * gap), (1.0, 0)],
            [(0, 0.9 * gap + v), (0.45, 0.75 * gap + 0.85 * v), (1.0, 0)],
        )
    )

    def between(upper: Points, lower: Points, colour: Colour) -> None:
        canvas.fill(head.see(np.concatenate([upper, lower[::-1]]), 0.03), colour)

    between(inner_low, low, who.lip * 1.04)
    between(top, inner_top, who.lip * 0.9)
    if gap > 0.015:
        between(inner_top, inner_low, np.array([78.0, 26, 30]))
        pick = np.abs(inner_top[:, 0]) < 0.86 * wide
        teeth = inner_top[pick]
        edge = np.minimum(teeth[:, 1] + 0.085, inner_low[pick, 1] - 0.004)
        between(teeth, np.stack([teeth[:, 0], edge], 1), np.array([240.0, 236, 226]))
    else:
        canvas.line(head.see(inner_top, 0.03), who.lip * (0.55, 0.45, 0.45), 0.024)
    return head.see(bent(np.array([(-1.0, 0.0), (1.0, 0.0)])), 0.03)


def _draw_eyes(canvas: _Canvas, head: _Head, who: _Anatomy, shot: _Shot) -> None:
    a, r = who.eye_width, who.iris_size
    wide_open = max(0.0, 1 - shot.blink - 0.25 * max(shot.smile, 0) ** 2)
    b = who.eye_height * wide_open
    ink = _mix(who.brow, (30, 20, 20), 0.6)
    raised = who.brow_height + 0.06 * shot.raise_brows
    slant, arch, thick = who.brow_angle - 0.03 * shot.raise_brows, who.brow_arch, who.brow_thickness
    for side in (-1.0, 1.0):
        # One eye in its own coordinates: x from the inner corner (-a) to the outer one (a).
        slope = np.array([(side, -who.eye_tilt / a), (0.0, 1.0)])
        middle = np.array([side * who.eye_gap, 0.0])

        def see(points: object, lift: float = 0.0, s: Points = slope, m: Points = middle) -> Points:
            return head.see(np.asarray(points, float) @ s + m, lift)

        upper = _curve(
            [(-a, 0.02), (-0.55 * a, -0.75 * b), (0.1 * a, -b), (0.65 * a, -0.68 * b), (a, 0)],
            False,
        )
        lower = _curve(
            [(-a, 0.02), (-0.4 * a, 0.5 * b + 0.02), (0.3 * a, 0.62 * b + 0.02), (a, 0)], False
        )
        socket = _ellipse(0, -0.06, 1.2 * a, 1.5 * who.eye_height + 0.04)
        canvas.blend(see(socket), 0.22, who.skin * (0.8, 0.7, 0.68))
        if wide_open > 0.12:
            region, mask, _ = canvas.window(see(np.concatenate([upper, lower[::-1]])), 0.2)
            around = region.copy()
            region[...] = (238, 234, 230)
            x, y = shot.gaze * (side, 1)
            for scale, colour in ((1.0, 0.5 * who.iris), (0.86, who.iris), (0.45, who.iris * 0.1)):
                canvas.fill(see(_ellipse(x, y, r * scale, r * scale)), colour)
            shadow = np.concatenate([upper, upper[::-1] + np.array([0, 0.06])])
            canvas.blend(see(shadow), 0.4, np.array([60.0, 45, 45]))
            x += side * math.copysign(0.045, shot.light[0])
            canvas.fill(see(_ellipse(x, y - 0.045, 0.03, 0.03)), np.full(3, 250.0))
            canvas.merge(region, 255 - mask, 1.0, around)
        lash = upper - (0, 0.03) * (
            (0.4 + who.lash) * np.sin(np.linspace(0.25, np.pi, len(upper)))[:, None]
        )
        canvas.fill(see(np.concatenate([upper, lash[::-1]])), ink)
        canvas.line(see(upper), ink, 0.02)
        crease = upper[3:-1] - (0, 0.05 + 0.03 * wide_open)
        lines = [see(crease), see(lower)]
        if who.age > 0.5:
            lines.append(see(lower[2:-2] + np.array([0, 0.09])))
        canvas.line(lines, who.skin * (0.74, 0.64, 0.6), 0.016)
        over = [(-0.31, slant), (0.0, -0.6 * arch), (0.2, -arch), (0.38, 0.05 - 0.5 * slant)]
        under = [(0.38, 0.06 - 0.5 * slant), (0.2, 0.8 * thick - arch)]
        under += [(0.0, thick - 0.6 * arch), (-0.3, slant + thick)]
        brow = np.concatenate([_curve(over, False), _curve(under, False)]) - (0, raised)
        canvas.blend(see(brow, 0.04), 0.88, who.brow)


def _draw_fringe(canvas: _Canvas, head: _Head, who: _Anatomy) -> None:
    """The hair that falls over the face."""
    line, w, lift = who.hairline, who.width, 0.06
    tone = who.hair * 1.05
    if who.style == "swept":
        sweep = [(-0.6 * w, line - 0.3), (-0.45, line + 0.02), (0.1, line + 0.22)]
        sweep += [
            (0.7 * w, line + 0.5),
            (0.93 * w, line + 0.75),
            (0.9 * w, line),
            (0.4, line - 0.4),
        ]
        canvas.fill(head.see(_curve(np.array(sweep) * (who.side, 1)), lift), tone)
    elif who.style in ("spiky", "short", "curly"):
        depth = {"spiky": 0.13, "short": 0.05, "curly": 0.09}[who.style]
        x = np.linspace(0, 0.85 * w, 9)
        y = line + 0.45 * (x / w) ** 4 + depth * (np.arange(9) % 2) - 0.03
        edge = np.concatenate([np.stack([x, y], 1), [(0.8 * w, line - 0.2), (0.4, line - 0.4)]])
        edge = _curve(edge, closed=False, steps=3) if who.style == "curly" else edge
        canvas.fill(head.see(_both(edge), 0.02), who.hair)
    elif who.style == "bob":
        bang = [(0, -0.52), (0.6 * w, -0.54), (0.95 * w, -0.35), (0.9 * w, -0.95), (0, line - 0.4)]
        canvas.fill(head.see(_curve(_loop(bang)), lift), tone)
        hairs = [
            np.array([(x, -0.56 - 0.1 * y), (0.9 * x, -0.75), (0.8 * x, line)])
            for x, y, _, _ in (who.strands[:14] - (0.5, 0, 0, 0)) * (1.5 * w, 1, 1, 1)
        ]
        canvas.line([head.see(hair, lift) for hair in hairs[::2]], who.hair * 1.2 + 6, 0.025)
        canvas.line([head.see(hair, lift) for hair in hairs[1::2]], who.hair * 0.85, 0.025)
    if who.style in ("curtain", "long", "bob"):
        part = 0.0 if who.style == "curtain" else 0.28 * who.side
        end = min(who.length, 1.9)
        for side in (-1.0, 1.0):
            inner = [(0.02 + part * side, line - 0.3), (0.45 * w, line + 0.12), (0.8 * w, -0.45)]
            inner += [(0.94 * w, 0.3), (0.92 * w, 0.75 * end), (1.04 * w, end)]
            edge = head.on(_curve(inner, closed=False) * (side, 1), lift)
            edge[-10:, 2] = np.linspace(edge[-10, 2], 0.2, 10)
            wide = w + _grow(who)
            outer = [(1.1 * wide, end - 0.1, 0.1), (1.14 * wide, 0.3 * end, 0.0)]
            outer += [(1.02 * wide, -0.6, 0.1), (0.7 * w, line - 0.35, 0.6)]
            lock = head.project(np.concatenate([edge, _curve(outer, False) * (side, 1, 1)]))
            canvas.fill(lock, tone)
            count = len(edge)
            near, far = lock[6:count:3], lock[count:][::-1]
            far = far[np.linspace(2, len(far) - 1, len(near)).astype(int)]
            hairs = [near * (1 - k) + far * k for k in (0.2, 0.45, 0.7)]
            canvas.line(hairs[::2], who.hair * 0.85, 0.03)
            canvas.line(hairs[1:2], who.hair * 1.2 + 6, 0.03)


def _draw_glasses(canvas: _Canvas, head: _Head, who: _Anatomy) -> None:
    if who.glasses == "none":
        return
    power, tall = (1.0, 0.37) if who.glasses == "round" else (0.45, 0.29)
    rim = np.sign(_CIRCLE) * np.abs(_CIRCLE) ** power * (0.4, tall) + (who.eye_gap + 0.02, 0.04)
    for side in (-1.0, 1.0):
        points = head.see(rim * (side, 1), 0.22)
        canvas.blend(points, 0.1, np.full(3, 255.0))
        arm = np.array([(side * (who.eye_gap + 0.42), -0.02, 1.0), (side * who.width, -0.05, 0.1)])
        canvas.line([np.concatenate([points, points[:1]]), head.project(arm)], who.frame, 0.034)
    edge = who.eye_gap - 0.36
    bridge = _curve([(-edge, 0.0), (0, -0.06), (edge, 0.0)], closed=False)
    canvas.line(head.see(bridge, 0.24), who.frame, 0.034)


def _relief(
    head: _Head, who: _Anatomy, shot: _Shot, face: Points, shape: tuple[int, int]
) -> np.ndarray:
    """What stands out of the face (nose, brows, cheeks, chin) as a height map at half the size."""
    gap, nose, wide, lift = who.eye_gap, who.nose, who.nose_width, who.nose_lift
    ridge = _loop(
        [
            (0, -0.2),
            (who.bridge, -0.2),
            (1.2 * who.bridge, 0.3 * nose),
            (0.6 * wide, nose),
            (0, nose),
        ]
    )
    rise = np.clip(0.1 + ridge[:, 1] / nose, 0, 1) * 0.9 * lift
    lips = who.mouth + 0.09 + 0.15 * min(shot.gape, 1)
    coarse = [
        (face, 112),
        (head.see(_ellipse(0, head.chin - 0.22, 0.24, 0.16)), 130),
        (head.see(_ellipse(0, who.mouth, who.mouth_width + 0.05, 0.22), 0.05), 124),
    ]
    fine = []
    for side in (-1, 1):
        coarse += [
            (head.see(_ellipse(side * 0.62, 0.52, 0.26, 0.2)), 130),
            (head.see(_ellipse(side * gap, -0.02, 0.3, 0.2)), 84),
            (head.see(_ellipse(side * gap, -0.38, 0.34, 0.08)), 124),
        ]
        fine += [
            (
                head.see(_ellipse(side * 0.75 * wide, nose + 0.04, 0.3 * wide, 0.075), 0.4 * lift),
                135,
            ),
            (head.see(_ellipse(side * gap, 0, who.eye_width, who.eye_height)), 118),
        ]
    coarse.append((head.see(ridge, rise), 160))
    fine += [
        (head.see(_ellipse(0, nose, 0.6 * wide, 0.11), lift), 158),
        (head.see(_ellipse(0, lips, 0.6 * who.mouth_width, 0.07), 0.05), 135),
        (head.see(_ellipse(0, who.mouth - 0.16, 0.04, 0.07), 0.05), 78),
    ]
    unit = head.scale / 2
    total = np.zeros(shape, np.float32)
    for parts, softness, height in ((coarse, 0.13, 0.012), (fine, 0.05, 0.004)):
        level = np.full(shape, 100, np.uint8)
        for pixels, value in parts:
            cv2.fillPoly(level, [np.rint(pixels * 8 - 4).astype(np.int32)], value, cv2.LINE_AA, 4)
        total += cv2.GaussianBlur(level.astype(np.float32), (0, 0), softness * unit) * height
    return total


def _photograph(
    canvas: _Canvas, head: _Head, who: _Anatomy, shot: _Shot, face: Points, outline: Points
) -> np.ndarray:
    """Light, lens and sensor."""
    height, width = canvas.image.shape[0] // _SUPERSAMPLE, canvas.image.shape[1] // _SUPERSAMPLE
    shape = (height + 1) // 2, (width + 1) // 2
    unit = head.scale / 2
    relief = _relief(head, who, shot, face, shape)
    slope_x, slope_y = (cv2.Sobel(relief, cv2.CV_32F, *d, scale=unit / 8) for d in ((1, 0), (0, 1)))

    def mask(softness: float, *outlines: Points) -> np.ndarray:
        image = np.zeros(shape, np.uint8)
        fixed = [np.rint(pixels * 8 - 4).astype(np.int32) for pixels in outlines]
        cv2.fillPoly(image, fixed, 255, cv2.LINE_AA, 4)
        return cv2.GaussianBlur(image, (0, 0), softness * unit) * np.float32(1 / 255)

    # Normals of an egg around the head, bent by the slopes of the relief.
    x0, y0 = (head.project(np.array([(0.0, 0.05, 0.3)]))[0] / 2).tolist()
    grow = _grow(who)
    c, s = math.cos(shot.roll), math.sin(shot.roll)
    a = (who.width + grow + 0.06) * unit
    b = (0.5 * (who.crown + head.chin + grow) + 0.1) * unit
    x = np.arange(shape[1], dtype=np.float32)[None] - x0
    y = np.arange(shape[0], dtype=np.float32)[:, None] - y0
    dx, dy = x * (c / a) + y * (s / a), y * (c / b) - x * (s / b)
    shrink = 0.96 / np.maximum(np.sqrt(dx * dx + dy * dy), 0.96)
    dx *= shrink
    dy *= shrink
    dz = np.sqrt(1 - dx * dx - dy * dy)
    nx, ny = c * dx - s * dy - slope_x, c * dy + s * dx - slope_y
    length = np.sqrt(nx * nx + ny * ny + dz * dz)
    lx, ly, lz = shot.light.tolist()
    lambert = np.maximum(nx * lx + ny * ly + dz * lz, 0) / length
    gloss = np.maximum(nx * lx + ny * ly + dz * (lz + 1), 0) / (length * math.sqrt(2 + 2 * lz))
    gloss *= gloss
    gloss *= gloss
    gloss *= gloss
    near = mask(0.05, face)
    on_head = np.maximum(near, mask(0.05, outline))
    shade = (shot.ambient + (1 - shot.ambient) * 1.3 * lambert) * (
        1 - 0.25 * near * (1 - mask(0.2, face))
    )
    shade = 1 + (shade - 1) * on_head
    cheeks = [head.see(_ellipse(side * 0.62, 0.6, 0.24, 0.19)) for side in (-1, 1)]
    flush = mask(0.1, *cheeks) * who.blush
    light = np.empty((*shape, 4), np.float32)
    for channel, (warmth, blush) in enumerate(((0.9, 0.0), (1.0, 0.14), (1.06, 0.1))):
        gain = shot.exposure * float(shot.cast[channel])
        light[..., channel] = (gain + (gain * warmth) * (shade - 1)) * (1 - blush * flush)
    light[..., 3] = gloss * gloss * gloss * on_head * 20
    light = cv2.resize(light, (width, height))
    image: np.ndarray = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    image = image * light[..., :3]
    image += light[..., 3:]
    if shot.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), shot.blur * min(height, width) / 160)
    grain = np.random.default_rng(shot.grain).standard_normal((height, width, 1), np.float32)
    image += grain * np.float32(shot.noise)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def _number(name: str, value: object) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise DataError(
            f"`{name}` expects an integer from 0 up. Received: {value!r}. For example `{name}=0`."
        )
    return number


def _numbers(identities: Iterable[int]) -> list[int]:
    if isinstance(identities, str) or not isinstance(identities, Iterable):
        raise DataError(
            "`identities` expects a sequence of integers. "
            f"Received: {identities!r}. For the first ten people pass `range(10)`."
        )
    numbers = [_number("identity", identity) for identity in identities]
    if not numbers:
        raise DataError(
            "`identities` expects at least one identity. Received: none. "
            "For the first ten people pass `range(10)`."
        )
    return numbers


def _faces(
    identities: list[int], pictures_each: int, size: tuple[int, int], seed: int
) -> Iterator[DrawnFace]:
    """The pictures one after the other; another seed takes other pictures of the same people."""
    count, first = _number("pictures_each", pictures_each), _number("seed", seed)
    if not 1 <= count <= _PICTURES_A_SEED:
        raise DataError(
            f"`pictures_each` expects an integer in [1, {_PICTURES_A_SEED}]. "
            f"Received: {count}. For example `pictures_each=4`."
        )
    for identity in identities:
        for picture in range(count):
            yield draw_face(identity, first * _PICTURES_A_SEED + picture, size)


def draw_face(identity: int, picture: int = 0, size: tuple[int, int] = (160, 160)) -> DrawnFace:
    """Draws one picture of one person.

    The same numbers give the same picture at every call, whatever the state of NumPy's global
    generator. About 6 ms on one core at 160 x 160.

    Args:
        identity: any integer from 0 up: who.
        picture: any integer from 0 up: which photograph of that person.
        size: height and width in pixels, each at least 32.

    Returns:
        A `DrawnFace`.

    Raises:
        DataError: a number is negative or no integer, or the size is too small.

    Example:

    >>> face = draw_face(identity=7, picture=2)
    >>> face.image.shape, face.landmarks.shape
    ((160, 160, 3), (5, 2))
    """
    identity, picture = _number("identity", identity), _number("picture", picture)
    try:
        height, width = (_number("size", side) for side in size)
    except (TypeError, ValueError):  # DataError is a ValueError
        height = width = 0
    if min(height, width) < 32:
        raise DataError(
            "`size` expects (height, width) in pixels, each an integer of at least 32. "
            f"Received: {size!r}. For example `size=(160, 160)`."
        )
    who, shot = _anatomy(identity), _shot(identity, picture)
    head = _Head(who, shot, (height, width))
    canvas = _Canvas(shot.backdrop, (height, width), head.scale)
    _draw_body(canvas, head, who, shot)
    outline = _draw_scalp(canvas, head, who)
    face = _draw_skin(canvas, head, who)
    _draw_beard(canvas, head, who, shot)
    _draw_nose(canvas, head, who)
    corners = _draw_mouth(canvas, head, who, shot)
    _draw_eyes(canvas, head, who, shot)
    _draw_fringe(canvas, head, who)
    _draw_glasses(canvas, head, who)
    image = _photograph(canvas, head, who, shot, face, outline)
    eyes = head.see(np.array([(-who.eye_gap, 0.0), (who.eye_gap, 0.0)]))
    tip = head.see(np.array([(0.0, who.nose)]), who.nose_lift)
    return DrawnFace(image, np.concatenate([eyes, tip, corners]), identity)


def draw_faces(
    identities: Iterable[int],
    pictures_each: int,
    size: tuple[int, int] = (160, 160),
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws several pictures of several people.

    Args:
        identities: who, as integers from 0 up, for example `range(10)`.
        pictures_each: how many pictures of each person.
        size: height and width in pixels.
        seed: another seed gives other pictures of the same people.

    Returns:
        `(images, landmarks, labels)`: uint8 `(n, height, width, 3)`, float64 `(n, 5, 2)` and int32
        `(n,)`. A label is the place of the person in `identities`, so that labels count from 0.

    Raises:
        DataError: no identity, or a number out of its range.

    Example:

    >>> images, landmarks, labels = draw_faces([3, 14], pictures_each=2, size=(64, 64))
    >>> images.shape, labels.tolist()
    ((4, 64, 64, 3), [0, 0, 1, 1])
    """
    people = _numbers(identities)
    faces = list(_faces(people, pictures_each, size, seed))
    labels = np.repeat(np.arange(len(people), dtype=np.int32), pictures_each)
    return np.stack([f.image for f in faces]), np.stack([f.landmarks for f in faces]), labels


def drawn_crops(
    identities: Iterable[int],
    pictures_each: int,
    template: str = "sphereface_112x96",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws faces and aligns them by their exact landmarks: a data set in one call.

    Args:
        identities: who, as integers from 0 up, for example `range(10)`.
        pictures_each: how many crops of each person.
        template: the name of the crop's template.
        seed: another seed gives other pictures of the same people.

    Returns:
        `(crops, labels)`: uint8 `(n, 112, 96, 3)` for the default template, and int32 `(n,)`, the
        place of the person in `identities`.

    Raises:
        DataError: no identity, a number out of its range, or an unknown template.

    Example:

    >>> crops, labels = drawn_crops(range(2), pictures_each=3)
    >>> crops.shape, labels.tolist()
    ((6, 112, 96, 3), [0, 0, 0, 1, 1, 1])
    """
    from spherekeras.data import alignment

    people = _numbers(identities)
    crops = [
        alignment.align(face.image, face.landmarks, template)
        for face in _faces(people, pictures_each, (160, 160), seed)
    ]
    labels = np.repeat(np.arange(len(people), dtype=np.int32), pictures_each)
    return np.stack(crops), labels


def write_drawn_crops(
    folder: str | os.PathLike[str], identities: Iterable[int], pictures_each: int
) -> pathlib.Path:
    """Writes drawn crops as a data set lies on a disk: a folder a person.

    Args:
        folder: where `person_000/000.png` and so on are written; made where it is missing.
        identities: who, as integers from 0 up.
        pictures_each: how many crops of each person.

    Returns:
        The folder.

    Raises:
        DataError: no identity, or a number out of its range.

    Example:

    >>> import tempfile
    >>> folder = write_drawn_crops(tempfile.mkdtemp(), range(2), 3)
    >>> sorted(path.name for path in (folder / "person_001").iterdir())
    ['003.png', '004.png', '005.png']
    """
    root = pathlib.Path(folder)
    for number, (crop, label) in enumerate(
        zip(*drawn_crops(identities, pictures_each), strict=True)
    ):
        person = root / f"person_{label:03}"
        person.mkdir(parents=True, exist_ok=True)
        _, encoded = cv2.imencode(".png", crop[..., ::-1])
        with atomic_path(person / f"{number:03}.png") as temporary:
            temporary.write_bytes(encoded.tobytes())
    return root
