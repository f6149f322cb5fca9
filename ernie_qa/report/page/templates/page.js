"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const viewer = at("viewer"), stage = at("stage"), layers = at("layers"), wipe = at("wipe"), showMap = at("show-map");
  const cases = [...document.querySelectorAll(".triplet")].filter((one) => one.querySelector('[data-kind="left"]'));
  const ZOOMS = [1, 2, 4, 8, 16];
  let current = 0, zoom = 0, opener = null;
  const image = (one, kind) => one.querySelector(`[data-kind="${kind}"] img`);

  const size = () => {
    const picture = image(cases[current], "right");
    const width = Number(picture.getAttribute("width")), height = Number(picture.getAttribute("height"));
    const fit = Math.min(stage.clientWidth / width, stage.clientHeight / height);
    const factor = fit * ZOOMS[zoom];
    layers.style.width = `${Math.floor(width * factor)}px`;
    layers.style.height = `${Math.floor(height * factor)}px`;
    at("zoom").textContent = `${ZOOMS[zoom]}×`;
    at("out").disabled = zoom === 0;
    at("in").disabled = zoom === ZOOMS.length - 1;
  };
  const wiped = () => {
    at("left-layer").style.clipPath = `inset(0 ${100 - wipe.value}% 0 0)`;
    wipe.setAttribute("aria-valuetext", `${wipe.value} % ${at("left-name").textContent}`);
    at("edge").style.left = `${wipe.value}%`;
    at("map-layer").hidden = !showMap.checked;
    wipe.disabled = showMap.checked;
  };
  const show = (number) => {
    current = number;
    const one = cases[current];
    for (const kind of ["left", "right", "map"]) {
      const from = image(one, kind), to = at(`${kind}-layer`);
      to.src = from.getAttribute("src");
      to.alt = from.alt;
    }
    at("viewer-title").textContent = one.dataset.case;
    at("left-name").textContent = one.dataset.leftName;
    at("right-name").textContent = one.dataset.rightName;
    at("previous").disabled = current === 0;
    at("next").disabled = current === cases.length - 1;
    size();
    wiped();
  };
  const open = (one, from, map) => {
    opener = from;
    zoom = 0;
    wipe.value = 50;
    showMap.checked = map;
    viewer.showModal();
    show(cases.indexOf(one));
    (map ? showMap : wipe).focus();
  };
  for (const one of cases) {
    const button = one.querySelector(".open");
    button.hidden = false;
    button.addEventListener("click", () => open(one, button, false));
    for (const link of one.querySelectorAll(".view")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        open(one, link, link.dataset.kind === "map");
      });
    }
  }
  wipe.addEventListener("input", wiped);
  showMap.addEventListener("change", wiped);
  at("in").addEventListener("click", () => { zoom = Math.min(zoom + 1, ZOOMS.length - 1); size(); });
  at("out").addEventListener("click", () => { zoom = Math.max(zoom - 1, 0); size(); });
  at("previous").addEventListener("click", () => show(current - 1));
  at("next").addEventListener("click", () => show(current + 1));
  at("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => opener && opener.focus());
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "+") at("in").click();
    if (event.key === "-") at("out").click();
  });
  window.addEventListener("resize", () => viewer.open && size());
})();
