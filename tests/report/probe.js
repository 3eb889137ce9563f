// What is wrong with how the page is shown now, each as a line; run in the page by the tests.
(() => {
  const wrong = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) wrong.push(`wider than the window: ${root.scrollWidth} px`);
  for (const e of document.querySelectorAll('.wide'))
    if (e.scrollWidth > e.clientWidth + 1) wrong.push(`a table is wider than its place: ${e.getAttribute('aria-label')}`);

  const numbers = (c) => (c.match(/-?[\d.]+(e-?\d+)?/g) || []).map(Number);
  const colour = (c) => {
    const v = numbers(c.replace('srgb', ''));
    const [r, g, b, a = 1] = c.startsWith('color(') ? [255 * v[0], 255 * v[1], 255 * v[2], v[3]] : v;
    return [r, g, b, a];
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const light = (c) => {
    const [r, g, b] = c.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) {
      const c = colour(getComputedStyle(e).backgroundColor);
      if (c[3] > 0) layers.push(c);
      if (c[3] === 1) break;
    }
    return layers.reverse().reduce((below, c) => over(c, below), [255, 255, 255]);
  };
  const seen = (e) => !e.closest('.unseen, title, desc, style') && e.checkVisibility() && e.getClientRects().length > 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  for (let node; (node = walker.nextNode()); ) {
    const e = node.parentElement;
    if (!node.data.trim() || !seen(e)) continue;
    texts += 1;
    const style = getComputedStyle(e);
    const inSvg = e instanceof SVGElement;
    const below = paper(inSvg ? e.closest('figure, div, body') : e);
    const ink = over(colour(inSvg ? style.fill : style.color), below);
    const [a, b] = [light(ink), light(below)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (!(contrast >= 4.5)) wrong.push(`contrast ${contrast.toFixed(2)}: ${node.data.trim().slice(0, 40)}`);
    const height = inSvg ? e.getBBox().height * Math.hypot(e.getScreenCTM().c, e.getScreenCTM().d) : parseFloat(style.fontSize);
    if (height < 9) wrong.push(`letters of ${height.toFixed(1)} px: ${node.data.trim().slice(0, 40)}`);
  }
  if (texts < 50) wrong.push(`only ${texts} texts are seen`);

  for (const e of document.querySelectorAll('img')) {
    if (!e.alt) wrong.push('a picture without words');
    if (!e.complete || e.naturalWidth === 0) wrong.push('a picture that is not shown');
  }
  for (const e of document.querySelectorAll('svg'))
    if (e.getAttribute('aria-hidden') !== 'true') {
      const words = (e.getAttribute('aria-labelledby') || '').split(' ').map((id) => document.getElementById(id)?.textContent);
      if (e.getAttribute('role') !== 'img' || words.length < 2 || words.some((w) => !w)) wrong.push('a chart without words');
    }
  for (const e of document.querySelectorAll('table')) {
    if (!e.caption?.textContent.trim()) wrong.push('a table without a caption');
    if ([...e.querySelectorAll('th')].some((th) => !th.scope)) wrong.push('a head of no column and no row');
  }
  const heads = [...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]));
  if (heads[0] !== 1 || heads.filter((h) => h === 1).length !== 1) wrong.push('not one first heading');
  if (heads.some((h, i) => i > 0 && h > heads[i - 1] + 1)) wrong.push('a level of headings is left out');
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  if (new Set(ids).size !== ids.length) wrong.push('a name is used twice');
  for (const a of document.querySelectorAll('a[href^="#"]'))
    if (!document.getElementById(a.hash.slice(1))) wrong.push(`a link to nothing: ${a.hash}`);
  if (!root.lang || !document.title) wrong.push('no language or no title');
  if (document.querySelector('script, iframe, object, embed, form, base')) wrong.push('something that a page of data does not hold');
  return wrong;
})()
