// Pages work without this script, but for clicks and likes. With it, `main` is exchanged in place and lists move.

const announce = (text) => {
  const toast = document.querySelector(".toast");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => toast.classList.remove("shown"), 2600);
};

const calm = matchMedia("(prefers-reduced-motion: reduce)");
let latest = 0; // of the pages asked for; answers to earlier ones are dropped

async function fetchPage(address) {
  const response = await fetch(address, { headers: { accept: "text/html" } });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (!page.querySelector("main")) throw new Error(`no page at ${address}`);
  return page;
}

function nameForTransition() {
  for (const entry of [...document.querySelectorAll("[data-key]")].slice(0, 60)) {
    entry.style.viewTransitionName = CSS.escape(`k-${entry.dataset.key}`);
  }
}

function exchange(page, update) {
  document.title = page.title;
  update(page);
  begin();
}

async function show(address, { history = "push", keepScroll = false } = {}) {
  const turn = ++latest;
  document.documentElement.classList.add("busy");
  try {
    const page = await fetchPage(address);
    if (turn !== latest) return;
    if (history === "push") window.history.pushState(null, "", address);
    if (history === "replace") window.history.replaceState(null, "", address);
    const put = () => exchange(page, (fresh) => {
      const typing = document.activeElement?.closest(".find");
      document.querySelector("main").replaceWith(document.adoptNode(fresh.querySelector("main")));
      if (!keepScroll) scrollTo(0, 0);
      if (!typing) document.querySelector("main").focus({ preventScroll: true });
      nameForTransition();
    });
    if (document.startViewTransition && !calm.matches) {
      nameForTransition();
      await document.startViewTransition(put).updateCallbackDone;
    } else put();
  } catch (error) {
    if (turn === latest) location.assign(address);
  } finally {
    if (turn === latest) document.documentElement.classList.remove("busy");
  }
}

async function postEvent(source, kind) {
  const { user, item, impression } = source.dataset;
  const response = await fetch("/v1/events", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ events: [{ user, item, kind, impression }] }),
    keepalive: true,
  });
  if (!response.ok) announce((await response.json()).message);
  return response.ok;
}

const isOurs = (link) =>
  link && link.origin === location.origin && !link.target && !link.hash && !/^\/(v1|static|picture|docs|openapi)/.test(link.pathname);

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-event]");
  if (button) {
    button.disabled = true;
    if (await postEvent(button, button.dataset.event)) {
      await show(location.href, { history: "", keepScroll: true });
      announce(button.dataset.event === "like" ? "Liked. The list has moved up." : "Hidden. The list has moved up.");
    } else button.disabled = false;
    return;
  }
  const link = event.target.closest("a[href]");
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button || !isOurs(link)) return;
  event.preventDefault();
  if (link.dataset.item && (await postEvent(link, "click"))) announce("A click, noted.");
  const stays = link.matches(".switch, .tab, .clear, .more a");
  await show(link.href, { keepScroll: stays });
  if (stays) {
    const again = [...document.querySelectorAll("main .switch, main .tab")];
    again.find((one) => one.textContent === link.textContent)?.focus({ preventScroll: true });
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === " " && event.target.matches('[role="switch"]')) {
    event.preventDefault();
    event.target.click();
  }
  if (event.key === "/" && !event.target.matches("input, textarea, select")) {
    event.preventDefault();
    document.querySelector(".find input").focus();
  }
});

const addressOf = (form) => {
  const filled = [...new FormData(form)].filter(([, value]) => value !== "");
  const query = new URLSearchParams(filled).toString();
  return form.getAttribute("action") + (query ? `?${query}` : "");
};

document.addEventListener("submit", (event) => {
  event.preventDefault();
  show(addressOf(event.target), { keepScroll: event.target.matches(".filter") });
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) show(addressOf(event.target.form), { history: "replace", keepScroll: true });
});

document.querySelector(".find input").addEventListener("input", (event) => {
  clearTimeout(show.timer);
  const form = event.target.form;
  show.timer = setTimeout(() => {
    if (event.target.value.trim()) show(addressOf(form), { history: location.pathname === "/search" ? "replace" : "push" });
  }, 180);
});

addEventListener("popstate", () => show(location.href, { history: "" }));

async function refresh(part) {
  const page = await fetchPage(location.href).catch(() => null);
  const fresh = page?.getElementById(part.id);
  if (fresh && part.isConnected && !part.contains(document.activeElement)) exchange(page, () => part.replaceWith(fresh));
  else if (part.isConnected) setTimeout(refresh, 3000, part);
}

function begin() {
  for (const link of document.querySelectorAll("nav a")) {
    if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const live = document.querySelector("[data-refresh]");
  if (live) setTimeout(refresh, 1000 * live.dataset.refresh, live);
  const canvas = document.querySelector("canvas[data-points]");
  const script = document.querySelector("script[data-map]").dataset.map;
  if (canvas) import(script).then((module) => module.drawMap(canvas, show));
}

begin();
