"""Class names of COCO-Stuff and ADE20K in the order of their ids, eight per line. Suffixes such as `-other` are kept.

Source: the lists of cocostuff (github.com/nightrome/cocostuff) and of the ADE20K scene parsing benchmark
(github.com/CSAILVision/sceneparsing), the latter with the first synonym of each class.
Deviation: as in LISA (arXiv:2308.00692), COCO-Stuff's "sky-other" is "sky", because it is the only sky class, and
ADE20K's "television" is "television receiver".
"""


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(","))


COCOSTUFF_CLASSES = _split("""
    person, bicycle, car, motorcycle, airplane, bus, train, truck,
    boat, traffic light, fire hydrant, street sign, stop sign, parking meter, bench, bird,
    cat, dog, horse, sheep, cow, elephant, bear, zebra,
    giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie,
    suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
    skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork,
    knife, spoon, bowl, banana, apple, sandwich, orange, broccoli,
    carrot, hot dog, pizza, donut, cake, chair, couch, potted plant,
    bed, mirror, dining table, window, desk, toilet, door, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster,
    sink, refrigerator, blender, book, clock, vase, scissors, teddy bear,
    hair drier, toothbrush, hair brush, banner, blanket, branch, bridge, building-other,
    bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth,
    clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff,
    fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog,
    food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house,
    leaves, light, mat, metal, mirror-stuff, moss, mountain, mud,
    napkin, net, paper, pavement, pillow, plant-other, plastic, platform,
    playingfield, railing, railroad, river, road, rock, roof, rug,
    salad, sand, sea, shelf, sky, skyscraper, snow, solid-other,
    stairs, stone, straw, structural-other, table, tent, textile-other, towel,
    tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile,
    wall-wood, water-other, waterdrops, window-blind, window-other, wood
""")
"""The 182 classes by their id in the stuffthingmaps, from 0 (person).

The first 91 are things. Eleven of these, such as "street sign" and "hat", are never annotated.
"""
ADE20K_CLASSES = _split("""
    wall, building, sky, floor, tree, ceiling, road, bed,
    windowpane, grass, cabinet, sidewalk, person, earth, door, table,
    mountain, plant, curtain, chair, car, water, painting, sofa,
    shelf, house, sea, mirror, rug, field, armchair, seat,
    fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
    base, box, column, signboard, chest of drawers, counter, sand, sink,
    skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case,
    pool table, pillow, screen door, stairway, river, bridge, bookcase, blind,
    coffee table, toilet, flower, book, hill, bench, countertop, stove,
    palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel,
    bus, towel, light, truck, tower, chandelier, awning, streetlight,
    booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
    escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel,
    basket, waterfall, tent, bag, minibike, cradle, oven, ball,
    food, step, tank, trade name, microwave, pot, animal, bicycle,
    lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
    traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor,
    bulletin board, shower, radiator, glass, clock, flag
""")
"""The 150 classes by their id in the benchmark, from 1 (wall)."""
