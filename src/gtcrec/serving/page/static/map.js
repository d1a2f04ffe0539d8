// The map of the items: points far away, pictures when near. What lies at the centre is listed below it.

const PICTURES_FROM = 60; // pixels between neighbouring points from which pictures are drawn
const STEP = 60; // pixels that an arrow key moves

export async function drawMap(canvas, show) {
  const response = await fetch(canvas.dataset.points);
  const { points, groups, ordered, color } = await response.json();
  const pen = canvas.getContext("2d");
  const box = canvas.parentElement;
  const view = { x: 0.5, y: 0.5, scale: 1 };
  const images = new Map();
  let hovered = null;
  let queued = false;
  let timer = 0;

  const style = (name) => getComputedStyle(box).getPropertyValue(name).trim();
  let colors = [];
  const readColors = () => {
    const kind = ordered ? "step" : "group";
    const named = groups.every((name) => CSS.supports("color", name)); // a column of colours is drawn in these
    colors = groups.map((name, place) => (named ? name : style(`--${kind}${place}`)));
    colors.rest = style("--rest");
    colors.ink = style("--ink");
    colors.paper = style("--paper");
  };

  const unit = () => Math.min(canvas.clientWidth, canvas.clientHeight) * 0.9 * view.scale;
  const stretch = () => Math.max(1, Math.min(1.7, canvas.clientWidth / canvas.clientHeight)); // wide maps use the width
  const place = (point) => [
    canvas.clientWidth / 2 + (point[0] - view.x) * unit() * stretch(),
    canvas.clientHeight / 2 + (point[1] - view.y) * unit(),
  ];
  const spacing = () => (unit() * Math.sqrt(stretch())) / Math.sqrt(points.length);
  const redraw = () => {
    if (!queued) requestAnimationFrame(draw);
    queued = true;
  };

  function picture(point) {
    if (!images.has(point[3])) {
      const image = new Image();
      image.onload = redraw;
      image.src = `/picture?id=${encodeURIComponent(point[3])}`;
      images.set(point[3], image);
    }
    const image = images.get(point[3]);
    return image.complete && image.naturalWidth ? image : null;
  }

  function drawPicture(point, x, y, size, color) {
    const image = point[5] ? picture(point) : null;
    const ratio = image ? image.naturalWidth / image.naturalHeight : 1;
    const width = size * Math.min(1, ratio);
    const height = size / Math.max(1, ratio);
    pen.fillStyle = color;
    pen.beginPath();
    pen.roundRect(x - width / 2 - 3, y - height / 2 - 3, width + 6, height + 6, 6);
    pen.fill();
    if (image) {
      pen.save();
      pen.beginPath();
      pen.roundRect(x - width / 2, y - height / 2, width, height, 4);
      pen.clip();
      pen.drawImage(image, x - width / 2, y - height / 2, width, height);
      pen.restore();
    } else {
      pen.fillStyle = colors.paper;
      pen.font = `600 ${size * 0.36}px Georgia, serif`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillText(lettersOf(point), x, y);
    }
  }

  function draw() {
    queued = false;
    if (!canvas.isConnected) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const gap = spacing();
    const size = Math.min(96, gap * 0.6);
    for (const point of points) {
      const [x, y] = place(point);
      if (x < -80 || y < -80 || x > width + 80 || y > height + 80) continue;
      const tint = point[2] < 0 ? colors.rest : colors[point[2]];
      if (gap > PICTURES_FROM) drawPicture(point, x, y, size, tint);
      else {
        pen.fillStyle = tint;
        pen.beginPath();
        pen.arc(x, y, Math.max(3, Math.min(9, gap * 0.2)), 0, 7);
        pen.fill();
      }
    }
    if (hovered) {
      const [x, y] = place(hovered);
      pen.strokeStyle = colors.ink;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x, y, gap > PICTURES_FROM ? size * 0.72 : 9, 0, 7);
      pen.stroke();
    }
    clearTimeout(timer);
    timer = setTimeout(listCentre, 250);
  }

  const lettersOf = (point) => point[4].split(/\s+/, 2).map((word) => word[0] ?? "").join("").toUpperCase();
  const distance = (point, x, y) => ((point[0] - x) * stretch()) ** 2 + (point[1] - y) ** 2;

  function listCentre() {
    const list = document.getElementById("near");
    if (!list || list.contains(document.activeElement)) return;
    const nearest = [...points].sort((a, b) => distance(a, view.x, view.y) - distance(b, view.x, view.y)).slice(0, 12);
    list.replaceChildren(...nearest.map(tile));
  }

  function tile(point) {
    const entry = document.createElement("li");
    entry.className = "tile";
    const link = document.createElement("a");
    link.href = `/item?id=${encodeURIComponent(point[3])}`;
    const frame = document.createElement("span");
    frame.className = "frame";
    const inside = document.createElement(point[5] ? "img" : "span");
    if (point[5]) Object.assign(inside, { src: `/picture?id=${encodeURIComponent(point[3])}`, alt: "" });
    else {
      inside.className = "letters hue0";
      inside.textContent = lettersOf(point);
    }
    frame.append(inside);
    const title = document.createElement("b");
    title.textContent = point[4];
    link.append(frame, title);
    entry.append(link);
    return entry;
  }

  function pointAt(event) {
    const area = canvas.getBoundingClientRect();
    const x = view.x + (event.clientX - area.left - area.width / 2) / unit() / stretch();
    const y = view.y + (event.clientY - area.top - area.height / 2) / unit();
    const best = points.reduce((a, b) => (distance(b, x, y) < distance(a, x, y) ? b : a), points[0]);
    const reach = Math.max(14, Math.min(48, spacing() * 0.45)) / unit();
    return best && distance(best, x, y) < reach ** 2 ? best : null;
  }

  function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const before = unit();
    view.scale = Math.max(1, Math.min(60, view.scale * factor));
    const change = 1 / before - 1 / unit();
    view.x += ((x - canvas.clientWidth / 2) * change) / stretch();
    view.y += (y - canvas.clientHeight / 2) * change;
    redraw();
  }

  function tell(event) {
    const tip = box.querySelector(".tip");
    tip.hidden = !hovered;
    if (!hovered) return;
    const area = box.getBoundingClientRect();
    tip.textContent = hovered[4] + (hovered[2] >= 0 ? ` · ${groups[hovered[2]]}` : "");
    tip.style.left = `${Math.min(event.clientX - area.left + 14, area.width - 180)}px`;
    tip.style.top = `${event.clientY - area.top + 14}px`;
  }

  const fingers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last) {
      hovered = pointAt(event);
      canvas.classList.toggle("over", Boolean(hovered));
      tell(event);
      redraw();
      return;
    }
    const others = [...fingers.values()].filter((one) => one.pointerId !== event.pointerId);
    if (others.length) {
      const spread = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
      zoom(spread(event) / (spread(last) || 1));
    } else {
      view.x -= (event.clientX - last.clientX) / unit() / stretch();
      view.y -= (event.clientY - last.clientY) / unit();
    }
    moved += Math.abs(event.clientX - last.clientX) + Math.abs(event.clientY - last.clientY);
    fingers.set(event.pointerId, event);
    redraw();
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
    canvas.addEventListener(name, (event) => {
      const held = fingers.delete(event.pointerId);
      if (name === "pointerup" && held && moved < 5) {
        const point = pointAt(event);
        if (point) show(`/item?id=${encodeURIComponent(point[3])}`);
      }
    });
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const area = canvas.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), event.clientX - area.left, event.clientY - area.top);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (moves[event.key]) {
      view.x += (moves[event.key][0] * STEP) / unit() / stretch();
      view.y += (moves[event.key][1] * STEP) / unit();
      redraw();
    } else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else return;
    event.preventDefault();
  });

  function showLegend() {
    const entries = groups.map((name, place) => {
      const entry = document.createElement("li");
      const dot = document.createElement("i");
      dot.className = "dot";
      dot.style.background = colors[place];
      entry.append(dot, name);
      return entry;
    });
    box.querySelector(".legend").replaceChildren(...entries);
  }

  const recolor = () => {
    readColors();
    showLegend();
    redraw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  new ResizeObserver(redraw).observe(canvas);
  box.querySelector(".drawing").remove();
  const choice = document.getElementById("color");
  if (choice) choice.value = color; // that of the address, else the one that neighbours share most
  recolor();
}
